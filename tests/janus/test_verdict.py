"""From scores to faces: counting, extents, and what is refused."""

import pytest
import torch

from jointdreamer.janus import judge
from jointdreamer.janus.calibration import ScoredAsset, choose_limits
from jointdreamer.janus.verdict import Limits, verdict_of

AZIMUTHS = torch.arange(24) * 15.0
LIMITS = Limits()


def bumps(*faces: float, azimuths: torch.Tensor = AZIMUTHS, half: float = 30.0) -> torch.Tensor:
    """Scores of faces that are seen up to `half` degrees to either side."""
    scores = torch.zeros(len(azimuths))
    for face in faces:
        apart = ((azimuths - face + 180) % 360 - 180).abs()
        scores = torch.maximum(scores, (apart <= half).float())
    return scores


def verdict(scores: torch.Tensor, azimuths: torch.Tensor = AZIMUTHS):
    return verdict_of(scores, azimuths, LIMITS)


@pytest.mark.parametrize("face", [0.0, 15.0, 120.0, 345.0])
def test_one_face_is_found_where_it_is(face):
    found = verdict(bumps(face))
    assert (found.n_faces, found.janus, found.faceless) == (1, False, False)
    assert abs((found.faces_deg[0] - face + 180) % 360 - 180) <= 3.0
    assert 60.0 <= found.extents_deg[0] <= 85.0


@pytest.mark.parametrize("faces", [(0, 180), (30, 120), (0, 90, 180), (15, 105, 195, 285)])
def test_separate_faces_are_counted_and_make_janus(faces):
    found = verdict(bumps(*faces, half=25.0))
    words = found.in_words()
    assert words.startswith(f"{len(faces)} faces at") and words.endswith(": Janus")
    assert found.n_faces == len(faces)
    assert found.janus and not found.faceless
    assert found.faces_deg == pytest.approx(faces, abs=5.0)


def test_no_score_is_no_face():
    found = verdict(torch.full((24,), 0.1))
    assert found.faceless and not found.janus and found.n_faces == 0
    assert found.extents_deg == [] and "no face" in found.in_words()


def test_a_face_all_round_is_one_face_and_janus():
    found = verdict(torch.ones(24))
    assert (found.n_faces, found.extents_deg, found.janus) == (1, [360.0], True)


def test_a_face_drawn_out_is_janus_and_a_dent_in_a_face_does_not_make_two():
    assert verdict(bumps(90.0, half=90.0)).janus
    scores = bumps(0.0, half=45.0)
    scores[0] = 0.8
    assert verdict(scores).n_faces == 1


def test_elevations_of_one_azimuth_are_averaged():
    # seen clearly from one of three elevations only: no face
    scores = torch.cat([bumps(0.0), torch.zeros(24), torch.zeros(24)])
    assert verdict(scores, AZIMUTHS.repeat(3)).faceless
    scores = torch.cat([bumps(0.0), bumps(0.0), torch.zeros(24)])
    assert verdict(scores, AZIMUTHS.repeat(3)).n_faces == 1


def test_order_and_full_turns_of_azimuths_do_not_matter():
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    scores = bumps(0.0, 150.0)
    expected = verdict(scores)
    found = verdict(scores[order], AZIMUTHS[order] - 360.0)
    assert found.faces_deg == expected.faces_deg and found.extents_deg == expected.extents_deg


def test_a_coarse_turntable_is_enough():
    azimuths = torch.arange(8) * 45.0
    for faces in ((0.0,), (0.0, 180.0)):
        assert verdict(bumps(*faces, azimuths=azimuths), azimuths).n_faces == len(faces)


def test_any_object_can_be_the_detector():
    class Redness:
        name, calibrated, limits = "redness", False, LIMITS

        def __call__(self, frames):
            return frames[..., 0].mean(dim=(1, 2))

    frames = torch.zeros(24, 4, 4, 3)
    frames[..., 0] = bumps(0.0, 180.0)[:, None, None]
    found = judge(frames, AZIMUTHS, Redness())
    assert found.n_faces == 2 and found.detector == "redness" and not found.calibrated
    assert torch.allclose(found.scores, bumps(0.0, 180.0))


def test_views_that_leave_a_gap_or_lack_their_azimuths_are_refused():
    with pytest.raises(ValueError, match="60 degrees apart"):
        judge(torch.zeros(12, 8, 8, 3), torch.arange(12) * 15.0)
    with pytest.raises(ValueError, match="one azimuth for each"):
        judge(torch.zeros(24, 8, 8, 3), torch.arange(23) * 15.0)


def test_limits_are_chosen_so_that_known_assets_are_told_right():
    generator = torch.Generator().manual_seed(0)
    assets = []
    for faces in ((), (0.0,), (60.0,), (0.0, 180.0), (0.0, 120.0, 240.0)):
        noise = 0.2 * torch.rand(24, generator=generator)
        assets.append(ScoredAsset(0.55 * bumps(*faces) + noise, AZIMUTHS, len(faces)))
    limits = choose_limits(assets)
    for asset in assets:
        assert verdict_of(asset.scores, asset.azimuths_deg, limits).kind == asset.kind
    assert [asset.kind for asset in assets] == ["faceless", *["one face"] * 2, *["Janus"] * 2]
    assert 0.3 < limits.face < 0.6  # well between noise and faces
