"""When a shape has settled, and the guidance scale that waits for it."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers.tiny_run import STEPS, logged, write_tiny_config
from threestudio_jointdreamer.guidance import settling
from threestudio_jointdreamer.guidance.settling import ScaleSchedule, SettlingShape

from jointdreamer.host.launcher import run

WAITS = ["settled", 3.0, 6.0]


def opacities(radii, tremble=0.0):
    """Discs of these radii, seen by two cameras."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 64)] * 2, indexing="ij")
    for radius in radii:
        radius = radius + tremble * torch.rand(2, 1, 1, 1, generator=generator)
        yield ((x**2 + y**2).sqrt()[None, :, :, None] < radius).float()


@pytest.mark.parametrize(
    ("radii", "tremble", "settles"),
    [
        ([0.3, 0.5, 0.6, 0.68, 0.69, 0.69], 0.0, 4),
        ([0.3, 0.5, 0.6, 0.68, 0.69, 0.69], 0.01, 4),  # which never ends
        ([0.5] * 4, 0.0, 1),  # a mesh that is given
        ([0.3, 0.4, 0.5, 0.6, 0.7, 0.8], 0.0, None),
    ],
)
def test_a_shape_has_settled_when_it_moves_at_a_quarter_of_its_fastest(radii, tremble, settles):
    shape, found = SettlingShape(), None
    for step, opacity in enumerate(opacities(radii, tremble)):
        for _ in range(2):  # batches that add up to a step are one look
            shape.look(step, {"step": step}, lambda batch, opacity=opacity: opacity)
        shape = SettlingShape(vars(shape))  # a resumed run
        assert shape.batch == {"step": 0}
        found = step if shape.settled and found is None else found
    assert found == settles


def test_the_scale_waits_until_it_is_told(make_guidance, prompts, cameras, rgb):
    guidance = make_guidance(guidance_scale=WAITS)
    with pytest.raises(ValueError, match="nobody tells .*system_type=jointdreamer-system"):
        guidance(rgb, prompts, **cameras)
    for settled, scale in ((False, 3.0), (True, 6.0)):
        guidance.tell_settled(settled)
        guidance.do_update_step(0, 7)
        assert guidance(rgb, prompts, **cameras)["guidance_scale"] == scale


def test_it_is_written_and_held_as_a_schedule():
    scale = ScaleSchedule(WAITS, "s")
    assert scale.waits and scale.value == WAITS
    assert scale.held_from(10, 4.0).value == [9, 3.0, 4.0, 10]
    scale.settled = True
    assert scale.held_from(10, 4.0).value == [9, 6.0, 4.0, 10]
    assert ScaleSchedule([0, 3.0, 6.0, 5], "s").held_from(10, 4.0)(0, 10) == 4.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (WAITS[:2], r"s=\['settled', 3.0\]: give \[settled, 30.0, 50.0\]"),
        ([*WAITS, 5], r"s=.*: give \[settled, 30.0, 50.0\]"),
        (["settled", 3.0, "more"], "s='more' is no schedule"),
        ("settled", r"s='settled' is no schedule.*, or \[settled, 30.0, 50.0\]"),
    ],
)
def test_a_malformed_one_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        ScaleSchedule(value, "s")


def test_a_run_switches_once_and_resumed_before_it_is_the_same(
    tmp_path, sd_folder, mv_folder, monkeypatch
):
    monkeypatch.setattr(settling, "STILL", 0.99)  # so that random priors' blobs settle, too
    system = {"guidance": {"guidance_scale": WAITS, "energy_weight": "auto"}}
    config = write_tiny_config(tmp_path / "config.yaml", sd_folder, mv_folder, system=system)
    whole = run(["--config", str(config), "--train"])
    log = logged(whole["trial_dir"])
    changes = [log["train_params/shape_change"][step] for step in range(STEPS)]
    switch = next(k for k in range(1, STEPS) if changes[k] <= 0.99 * max(changes[: k + 1]))
    scale = [log["train/guidance_scale"][step] for step in range(STEPS)]
    assert scale == [3.0] * (switch + 1) + [6.0] * (STEPS - switch - 1)
    assert 1 < switch < STEPS - 1 and all(
        log["train/energy_weight"][step] > 0 for step in range(STEPS)
    )

    folder = Path(shutil.copytree(whole["trial_dir"], tmp_path / "copy"))
    for ckpt in folder.glob("ckpts/*.ckpt"):
        if "step=2" not in ckpt.name:
            ckpt.unlink()
    again = run(["--train", f"resume={folder}"])
    states = [torch.load(r["ckpt"], weights_only=True)["state_dict"] for r in (whole, again)]
    assert whole["ckpt"] != again["ckpt"]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
