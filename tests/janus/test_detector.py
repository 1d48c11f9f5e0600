"""The face detectors: saving, loading, choosing, training, CLIP."""

import pytest
import torch
from torch import nn

from jointdreamer.janus import Limits, judge
from jointdreamer.janus.clip_detector import VIEWS, ClipDetector
from jointdreamer.janus.detector import FaceDetector, find_detector
from jointdreamer.janus.face_pictures import (
    SPLITS,
    draw_creatures,
    draw_faces,
    faciness,
    make_face_pictures,
)
from jointdreamer.janus.spoiling import spoil
from jointdreamer.janus.training import shortened, train_face_detector


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_saved_detector_scores_as_before(tmp_path):
    torch.manual_seed(0)
    detector = FaceDetector((8, 16), size=32, limits=Limits(face=0.3)).eval()
    detector.save(tmp_path / "faces")
    again = FaceDetector.load(tmp_path / "faces")
    frames = torch.rand(3, 48, 48, 3)
    assert torch.equal(again(frames), detector(frames))
    assert again.limits == Limits(face=0.3)
    assert sorted(p.name for p in (tmp_path / "faces").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_a_detector_without_weights_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="lacks model.safetensors and config.json"):
        FaceDetector.load(tmp_path)


@pytest.mark.parametrize("name", ["big", "open_clip:", "open_clip:ViT-B-32"])
def test_unknown_detectors_are_refused_with_examples(name):
    with pytest.raises(ValueError, match="open_clip:ViT-B-32/openai"):
        find_detector(name)


def test_shipped_detector_is_small(request):
    folder = request.config.rootpath / "load" / "tiny" / "face-detector"
    assert (folder / "model.safetensors").stat().st_size < 2**20


def test_no_combination_of_attributes_is_in_two_splits():
    seen = {}
    for split in SPLITS:
        drawn = draw_creatures(400, split, seeded())
        rows = zip(
            *(getattr(drawn, f).tolist() for f in ("species", "color", "hat", "backpack", "belly")),
            strict=True,
        )
        seen[split] = set(rows)
    assert not seen["train"] & seen["held-out"]
    assert not seen["train"] & seen["calibrate"]
    assert not seen["calibrate"] & seen["held-out"]


def test_faces_are_drawn_apart_and_padded():
    counts = torch.tensor([0, 1, 2, 3, 4] * 20)
    faces = draw_faces(counts, seeded(), apart_deg=75.0)
    assert torch.equal((~faces.isnan()).sum(dim=1), counts)
    for row in faces[counts > 1]:
        around = row[~row.isnan()].sort().values
        assert torch.diff(around, append=around[:1] + 360).min() >= 75.0


def test_faciness_falls_with_the_angle_to_the_nearest_face():
    faces = torch.tensor([[350.0, 180.0]]).expand(5, -1)
    azimuths = torch.tensor([0.0, 20.0, 35.0, 90.0, 195.0])
    expected = torch.tensor([1.0, 0.5, 0.0, 0.0, 1.0])
    assert torch.allclose(faciness(azimuths, faces), expected)
    assert faciness(torch.zeros(1), torch.full((1, 2), float("nan"))).item() == 0


def test_spoilt_pictures_stay_pictures_and_differ():
    images = make_face_pictures(4, "train", seed=0).images.float() / 255
    torch.manual_seed(0)
    spoilt = spoil(images, 32)
    assert spoilt.shape == (4, 3, 32, 32)
    assert spoilt.min() >= 0 and spoilt.max() <= 1
    assert (spoil(images, 32) - spoilt).abs().mean() > 0.01


def test_training_writes_a_detector_and_says_how_it_went(tmp_path):
    report = train_face_detector(tmp_path, shortened(2), pictures=16, batch=4, validation=16)
    assert report["steps"] == 2 and 0 <= report["right_on_spoilt"] <= 1
    assert FaceDetector.load(tmp_path)(torch.rand(2, 64, 64, 3)).shape == (2,)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "training.json",
    ]


class Words(nn.Module):
    """A stand-in for CLIP: a picture's three mean colours are how front, side and back it is."""

    def __init__(self):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def encode_image(self, images):
        return images.mean(dim=(2, 3))

    def encode_text(self, tokens):
        return torch.eye(3)[tokens]


def tokens_of(texts: list[str]) -> torch.Tensor:
    """The place in `VIEWS` of the view that each prompt describes."""
    places = {
        prompt.format("a cat"): place
        for place, prompts in enumerate(VIEWS.values())
        for prompt in prompts
    }
    return torch.tensor([places[text] for text in texts])


def test_clip_scores_front_views_high_and_says_it_is_uncalibrated():
    detector = ClipDetector(
        Words(), tokens_of, 8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), subject="a cat"
    )
    frames = torch.zeros(24, 16, 16, 3)
    frames[..., 2] = 1.0  # the back ...
    frames[[0, 1, 23, 11, 12, 13]] = torch.tensor([1.0, 0.0, 0.0])  # ... and two fronts
    verdict = judge(frames, torch.arange(24) * 15.0, detector)
    assert verdict.n_faces == 2 and verdict.janus and not verdict.calibrated
    assert verdict.scores[0] > 0.99 and verdict.scores[6] < 0.01


def test_clip_of_open_clip_is_taken():
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 64,
            "heads": 1,
            "layers": 1,
        },
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    scores = ClipDetector(model, tokenizer, 32, mean, std)(torch.rand(5, 40, 40, 3))
    assert scores.shape == (5,) and ((scores > 0) & (scores < 1)).all()
