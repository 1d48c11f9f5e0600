"""The trade-off's points as a sweep's methods, and what is made of their assets."""

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import tradeoff
from benchmarks.janus_benchmark import tradeoff_plot
from jointdreamer.csv_table import write_csv
from jointdreamer.experiment import read_experiment
from jointdreamer.sweeps.plan import read_sweep

ROOT = Path(__file__).resolve().parents[2]


def guidance_of(method):
    return read_experiment(method.config, method.overrides).system.guidance


def test_a_point_multiplies_weight_and_scale_and_may_have_a_weaker_prior():
    sweep = read_sweep(ROOT / "configs/sweeps/tradeoff.yaml")
    names = ("jsd-multiview", "jsd-sum", "jsd-settled", "jsd-auto", "translation-auto-late")
    block = tradeoff.Block(names, (0.5,), (2.0,), ("shipped", "weak"))
    found = {point.name: guidance_of(point) for point in tradeoff.methods_of(block, sweep, "/weak")}
    one = found["jsd-multiview+w0.5+s2+weak"]
    assert one.energy_weight == [100, 0.25, 0.5, 400]
    assert one.guidance_scale == [450, 10.0, 12.0, 451]
    assert one.energy.pretrained_model_name_or_path == "/weak"
    shipped = found["jsd-multiview+w0.5+s2+shipped"].energy
    assert shipped.pretrained_model_name_or_path == tradeoff.SHIPPED
    terms = found["jsd-sum+w0.5+s2+weak"].energy.energies
    assert terms.multiview.energy.pretrained_model_name_or_path == "/weak"
    assert "wonder3d" in terms.translation.energy.pretrained_model_name_or_path
    assert found["jsd-settled+w0.5+s2+weak"].guidance_scale == ["settled", 10.0, 12.0]
    assert found["jsd-auto+w0.5+s2+weak"].energy_weight == ["auto", 0.25]
    late = found["translation-auto-late+w0.5+s2+weak"].energy_weight
    assert late == ["auto", 75, 0.0, 0.25, 200]
    assert tradeoff.scaled("auto", 0.5) == tradeoff.scaled(["auto"], 0.5) == ["auto", 0.25]


def test_every_block_names_methods_of_the_sweep_and_no_other_is_taken():
    sweep = read_sweep(ROOT / "configs/sweeps/tradeoff.yaml")
    for block in tradeoff.BLOCKS.values():
        assert list(tradeoff.methods_of(block, sweep, "/weak"))
    assert tradeoff.main(["--blocks", "all", "--dry-run"]) == 2


def test_a_sweep_that_finished_no_run_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tradeoff, "run_sweep", lambda *args: False)
    assets = tmp_path / "assets.csv"
    options = ["--blocks", "sds", "--prompts", "1", "--out", str(tmp_path), "--csv", str(assets)]
    assert tradeoff.main(options) == 2 and not assets.exists()
    assert "no run has finished: the same command goes on" in "".join(capsys.readouterr())


def asset(method, prompt, janus, r_precision, **more):
    known = {"seed": 0, "step": 600, "clip_score": 80.0, "rank": 1, "faces": 1 + janus}
    known |= {"face_views": 24, "face_extents_deg": "40", "janus": int(janus), "faceless": 0}
    return (
        {"method": method, "prompt": prompt, "r_precision": r_precision, "fid": 9.5} | known | more
    )


@pytest.fixture
def drawn(tmp_path):
    """Faces are gone from a weight of 1 on, the text from 10 on; the weaker prior knows cats."""
    prompts = json.loads((ROOT / "load/prompts/tiny16.json").read_text())
    rows = [
        asset(f"{name}+w{weight:g}+s2+{prior}", prompt, weight < 1, 100.0 if weight < 10 else 0.0)
        for name in ("weighted-sum", "jsd-multiview")
        for prior in ("shipped", "weak")
        for weight in (0.1, 1.0, 10.0)
        for prompt in prompts
    ]
    rows += [asset("sds+w0+s2+shipped", prompt, True, 95.0) for prompt in prompts]
    write_csv(tmp_path / "t-assets.csv", rows)
    return tmp_path, tradeoff_plot.draw(tmp_path / "t-assets.csv", tmp_path / "t.png")


def test_the_range_in_which_both_goals_hold_has_a_width_in_decades(drawn):
    folder, table = drawn
    line = next(x for x in table.splitlines() if "shipped" in x and "jsd-multiview" in x)
    assert "| 0.2 [0.2, 0.2] | 16 |" in line  # of one decade at each end the last and first tenths
    assert "species that it knows | x 2 | weighted-sum | 0.2 [0.2, 0.2] | 8" in table
    assert Image.open(folder / "t.png").width > 1000


def test_a_fid_is_of_one_calls_assets_and_of_no_merged_ones():
    one, other = ([asset("sds+w0+s2+shipped", "p", 1, 9.0, seed=i, fid=9.5 + i)] for i in (0, 1))
    assert tradeoff_plot.measured(one)["fid"] == 9.5
    merged = tradeoff_plot.measured([*one, *other])
    assert merged["fid"] is None and merged["runs"] == 2


def test_one_point_of_an_older_table_without_a_fid_is_drawn_and_none_is_refused(tmp_path, capsys):
    path, rows = tmp_path / "t-assets.csv", [asset("sds+w0+s2+shipped", "p", 1, 9.0)]
    write_csv(path, [{k: v for k, v in row.items() if k != "fid"} for row in rows])
    options = ["--plot", "--csv", str(path), "--picture", str(tmp_path / "t.png")]
    assert tradeoff.main(options) == 0 and (tmp_path / "t.png").is_file()
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert tradeoff.main(options) == 2
    assert "t-assets.csv has no assets: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("methods", "panels"),
    [
        (["weighted-sum+w1+s1+shipped", "jsd-sum+w1+s1+shipped"], 1),
        (["jsd-sum+w1+s1+shipped", "jsd-sum+w1+s4+shipped", "pull+w1+s2+weak"], 3),
        (["pull+w1+s4+weak", "jsd-sum+w1+s1+shipped"], 1),  # of the weaker prior the middle scale
        (["pull+w1+s1+weak", "pull+w1+s4+weak"], 2),  # or what there is
        (["gaussians+w1+s1+shipped"], 1),  # of which no curve is drawn
    ],
)
def test_the_picture_has_a_panel_for_each_scale(tmp_path, monkeypatch, methods, panels):
    figures = []

    class Seen(tradeoff_plot.Figure):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            figures.append(self)

    monkeypatch.setattr(tradeoff_plot, "Figure", Seen)
    write_csv(tmp_path / "t-assets.csv", [asset(method, "a bear", 1, 9.0) for method in methods])
    tradeoff_plot.draw(tmp_path / "t-assets.csv", tmp_path / "t.png")
    axes = figures[0].axes
    assert len(axes) == 3 * panels
    drawn = {text for ax in axes for text in ax.get_legend_handles_labels()[1]}
    assert ("JSD, sum of three" in drawn) == any("jsd-sum" in method for method in methods)
    assert len({ax.get_title() for ax in axes[:panels]}) == panels


def test_points_have_intervals_and_assets_are_read_as_they_were_written(drawn):
    folder, _ = drawn
    points = (folder / "t.csv").read_text().splitlines()
    assert len(points) == 1 + 2 * 3 * 3 + 1
    sds = next(line for line in points if ",sds," in line)
    assert sds.startswith("shipped,sds,2.0,0.0,16,16,100.0,80.64,100.0,0.0,0.0,19.36,100.0")
    assets = tradeoff_plot.read_assets(folder / "t-assets.csv")
    write_csv(folder / "again.csv", [*assets.values()])
    assert (folder / "again.csv").read_text() == (folder / "t-assets.csv").read_text()


@pytest.mark.parametrize(("assets", "points"), [("t-assets", "t"), ("mine", "mine-points")])
def test_points_never_take_the_place_of_the_assets(tmp_path, assets, points):
    write_csv(tmp_path / f"{assets}.csv", [asset("sds+w0+s2+shipped", "p", 1, 9.0)])
    before = (tmp_path / f"{assets}.csv").read_text()
    tradeoff_plot.draw(tmp_path / f"{assets}.csv", tmp_path / "t.png")
    assert (tmp_path / f"{assets}.csv").read_text() == before
    assert (tmp_path / f"{points}.csv").is_file()
