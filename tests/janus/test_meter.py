"""The whole meter: the shipped detector on creatures it never saw, the command, the picture."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from jointdreamer import cli
from jointdreamer.janus import draw_verdict, judge
from jointdreamer.janus.calibration import ScoredAsset
from jointdreamer.janus.fitting import fit_nerf
from jointdreamer.janus.synthetic import draw_assets, render_asset


@pytest.fixture(scope="module")
def assets():
    """Held-out creatures with 1, 2, 3, 4 and 0 faces, their frames and azimuths, judged."""
    drawn, found = draw_assets(9, "held-out", seed=7), []
    for asset in (drawn[index] for index in (0, 1, 3, 5, 8)):
        frames, azimuths = render_asset(asset, elevations_deg=(15.0,))
        found.append((asset, frames, azimuths, judge(frames, azimuths)))
    return found


def test_held_out_creatures_are_told_right_and_their_faces_found_where_they_are(assets):
    for asset, _, azimuths, verdict in assets:
        truth = ScoredAsset(verdict.scores, azimuths, len(asset.faces_deg))
        assert verdict.kind == truth.kind
        for face in asset.faces_deg:
            apart = [abs((face - found + 180) % 360 - 180) for found in verdict.faces_deg]
            assert min(apart) < 20.0


def test_a_darker_smaller_picture_is_judged_alike(assets):
    _, frames, azimuths, verdict = assets[1]
    small = frames[:, ::2, ::2] * 0.8
    assert judge(small, azimuths).janus == verdict.janus


def test_the_picture_shows_the_profile_and_the_views(assets, tmp_path):
    _, frames, azimuths, verdict = assets[3]
    path = tmp_path / "why.png"
    draw_verdict(frames, azimuths, verdict, path, "a creature")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    red = (pixels[..., 0] - pixels[..., 2] > 20) & (pixels[..., 0] > 200)
    assert red.mean() > 0.02  # the faces of a Janus are shaded red
    assert pixels.shape[1] > 2 * pixels.shape[0]


def test_a_fitted_nerf_looks_like_its_creature():
    asset = draw_assets(1, "calibrate", seed=1)[0]
    views = fit_nerf(asset, steps=30, seed=0, size=16)
    truth, azimuths = render_asset(asset, 16)
    assert torch.equal(views.azimuths_deg, azimuths)
    # Far closer than an empty picture, so cameras of fit and truth agree.
    empty = truth[:, :1, :1].expand_as(truth)
    error, blank = ((views.frames - truth) ** 2).mean(), ((empty - truth) ** 2).mean()
    assert error < 0.25 * blank


def write_turntable(folder, frames):
    folder.mkdir(parents=True)
    for index, frame in enumerate([*frames, frames[0]]):
        pixels = (frame * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{index}.png")


def test_command_judges_folders_and_writes_a_table(assets, tmp_path, capsys):
    for name, index in (("good/bear", 0), ("bad/bear", 1)):
        write_turntable(tmp_path / name, assets[index][1])
    out, folders = tmp_path / "out", [str(tmp_path / name) for name in ("good/bear", "bad/bear")]
    assert cli.main(["janus", *folders, "--out", str(out)]) == 0
    with open(out / "janus.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["janus"] for row in rows] == ["False", "True"]
    assert [row["n_faces"] for row in rows] == ["1", "2"]
    written = {"bad-bear.png", "good-bear.png", "janus.csv"}
    assert {path.name for path in out.iterdir()} == written
    told = capsys.readouterr().out
    assert "good/bear: 1 face at" in told and "Janus 1 of 2, faceless 0" in told


def test_command_refuses_what_is_not_there_in_one_line(tmp_path, capsys):
    assert cli.main(["janus", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]) == 2
    assert "nothing is no folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
