"""The whole meter: the shipped detector on creatures it never saw, the command, the picture."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from jointdreamer import cli
from jointdreamer.janus import draw_verdict, judge
from jointdreamer.janus.calibration import kind, kind_of
from jointdreamer.janus.fitting import fit_nerf
from jointdreamer.janus.planted import draw_planted, render_planted


@pytest.fixture(scope="module")
def assets():
    """Held-out creatures with 1, 2, 3, 4 and 0 faces, their frames and azimuths, judged."""
    drawn, found = draw_planted(9, "held-out", seed=7), []
    for planted in (drawn[index] for index in (0, 1, 3, 5, 8)):
        frames, azimuths = render_planted(planted, elevations_deg=(15.0,))
        found.append((planted, frames, azimuths, judge(frames, azimuths)))
    return found


def test_held_out_creatures_are_told_right(assets):
    said = [kind_of(verdict) for *_, verdict in assets]
    assert said == [kind(len(planted.faces_deg)) for planted, *_ in assets]


def test_faces_are_found_where_they_were_planted(assets):
    for planted, _, _, verdict in assets:
        for face in planted.faces_deg:
            apart = [abs((face - found + 180) % 360 - 180) for found in verdict.faces_deg]
            assert min(apart) < 20.0


def test_a_darker_smaller_picture_is_judged_alike(assets):
    planted, frames, azimuths, verdict = assets[1]
    small = frames[:, ::2, ::2] * 0.8
    assert judge(small, azimuths).janus == verdict.janus


def test_the_picture_shows_the_profile_and_the_views(assets, tmp_path):
    _, frames, azimuths, verdict = assets[3]
    path = draw_verdict(frames, azimuths, verdict, tmp_path / "why.png", "a creature")
    with Image.open(path) as picture:
        pixels = np.asarray(picture).astype(int)
    red = (pixels[..., 0] - pixels[..., 2] > 20) & (pixels[..., 0] > 200)
    assert red.mean() > 0.02  # the faces of a Janus are shaded red
    assert pixels.shape[1] > 2 * pixels.shape[0]


def test_a_fitted_nerf_looks_like_its_creature():
    planted = draw_planted(1, "calibrate", seed=1)[0]
    torch.manual_seed(0)
    size = 16
    views = fit_nerf(planted, steps=30, seed=0, size=size)
    truth, azimuths = render_planted(planted, size)
    assert torch.equal(views.azimuths_deg, azimuths)
    # Far closer than an empty picture, so cameras of fit and truth agree.
    empty = truth[:, :1, :1].expand_as(truth)
    error, blank = ((views.frames - truth) ** 2).mean(), ((empty - truth) ** 2).mean()
    assert error < 0.25 * blank


def write_turntable(folder, planted_frames):
    folder.mkdir(parents=True)
    for index, frame in enumerate([*planted_frames, planted_frames[0]]):
        pixels = (frame * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{index}.png")


def test_command_judges_folders_and_writes_a_table(assets, tmp_path, capsys):
    for name, index in (("good/bear", 0), ("bad/bear", 1)):
        write_turntable(tmp_path / name, assets[index][1])
    out = tmp_path / "out"
    status = cli.main(
        ["janus", str(tmp_path / "good/bear"), str(tmp_path / "bad/bear"), "--out", str(out)]
    )
    assert status == 0
    with open(out / "janus.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["janus"] for row in rows] == ["False", "True"]
    assert [row["n_faces"] for row in rows] == ["1", "2"]
    assert sorted(path.name for path in out.iterdir()) == [
        "bad-bear.png",
        "good-bear.png",
        "janus.csv",
    ]
    assert "Janus 1 of 2, faceless 0" in capsys.readouterr().out


def test_command_refuses_what_is_not_there_in_one_line(tmp_path, capsys):
    assert cli.main(["janus", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]) == 2
    assert "nothing is no folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
