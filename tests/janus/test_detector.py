"""The face detectors: saving, loading, choosing, training, CLIP."""

import pytest
import torch
from helpers.open_clip import write_open_clip
from torch import nn

from jointdreamer.janus import find_detector, judge
from jointdreamer.janus.augmentation import augment
from jointdreamer.janus.detectors import PROMPTS, SUBJECT, ClipDetector, FaceDetector
from jointdreamer.janus.face_dataset import face_labels, make_face_dataset
from jointdreamer.janus.synthetic import SPLITS, draw_creatures, draw_faces
from jointdreamer.janus.training import train_face_detector
from jointdreamer.janus.verdict import Limits


def test_saved_detector_scores_as_before(tmp_path):
    with pytest.raises(FileNotFoundError, match="lacks model.safetensors and config.json"):
        FaceDetector.load(tmp_path)
    torch.manual_seed(0)
    detector = FaceDetector((8, 16), size=32, limits=Limits(face=0.3)).eval()
    detector.save(tmp_path / "faces")
    again = FaceDetector.load(tmp_path / "faces")
    frames = torch.rand(3, 48, 48, 3)
    assert torch.equal(again(frames), detector(frames))
    assert again.limits == Limits(face=0.3)
    assert {p.name for p in (tmp_path / "faces").iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("name", ["big", "open_clip:", "open_clip:ViT-B-32"])
def test_unknown_detectors_are_refused_with_examples(name):
    with pytest.raises(ValueError, match="open_clip:ViT-B-32/openai"):
        find_detector(name)


def test_shipped_detector_is_small(request):
    folder = request.config.rootpath / "load" / "tiny" / "face-detector"
    assert (folder / "model.safetensors").stat().st_size < 2**20


def test_no_combination_of_attributes_is_in_two_splits():
    attributes, seen = ("species", "color", "hat", "backpack", "belly"), []
    for split in SPLITS:
        drawn = draw_creatures(400, split, torch.Generator().manual_seed(0))
        seen.append(set(zip(*(getattr(drawn, name).tolist() for name in attributes), strict=True)))
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_faces_are_drawn_apart_and_padded():
    counts = torch.tensor([0, 1, 2, 3, 4] * 20)
    faces = draw_faces(counts, torch.Generator().manual_seed(0), apart_deg=75.0)
    assert torch.equal((~faces.isnan()).sum(dim=1), counts)
    for row in faces[counts > 1]:
        around = row[~row.isnan()].sort().values
        assert torch.diff(around, append=around[:1] + 360).min() >= 75.0


def test_label_falls_with_the_angle_to_the_nearest_face():
    faces = torch.tensor([[350.0, 180.0]]).expand(5, -1)
    azimuths = torch.tensor([0.0, 20.0, 35.0, 90.0, 195.0])
    expected = torch.tensor([1.0, 0.5, 0.0, 0.0, 1.0])
    assert torch.allclose(face_labels(azimuths, faces), expected)
    assert face_labels(torch.zeros(1), torch.full((1, 2), float("nan"))).item() == 0


def test_augmented_pictures_stay_pictures_and_differ():
    images = make_face_dataset(4, "train", seed=0).images.float() / 255
    augmented = augment(images, 32)
    assert augmented.shape == (4, 3, 32, 32)
    assert augmented.min() >= 0 and augmented.max() <= 1
    assert (augment(images, 32) - augmented).abs().mean() > 0.01


def test_training_writes_a_detector_and_says_how_it_went(tmp_path):
    report = train_face_detector(tmp_path, steps=2, pictures=16, batch=4)
    assert report["steps"] == 2 and report["loss"] > 0
    assert FaceDetector.load(tmp_path)(torch.rand(2, 64, 64, 3)).shape == (2,)
    written = {"config.json", "model.safetensors", "training.json"}
    assert {path.name for path in tmp_path.iterdir()} == written


class MeanColorClip(nn.Module):
    """A stand-in for CLIP: a picture's three mean colours are how front, side and back it is."""

    def __init__(self):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def encode_image(self, images):
        return images.mean(dim=(2, 3))

    def encode_text(self, tokens):
        return torch.eye(3)[tokens]


def tokens_of(texts: list[str]) -> torch.Tensor:
    """The place in `PROMPTS` of the view that each text describes."""
    views = [[prompt.format(SUBJECT) for prompt in prompts] for prompts in PROMPTS.values()]
    return torch.tensor([[text in view for view in views].index(True) for text in texts])


def test_clip_scores_front_views_high_and_says_it_is_uncalibrated():
    detector = ClipDetector(MeanColorClip(), tokens_of, 8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    frames = torch.zeros(24, 16, 16, 3)
    frames[..., 2] = 1.0  # the back ...
    frames[[0, 1, 23, 11, 12, 13]] = torch.tensor([1.0, 0.0, 0.0])  # ... and two fronts
    verdict = judge(frames, torch.arange(24) * 15.0, detector)
    assert verdict.n_faces == 2 and verdict.janus and not verdict.calibrated
    assert verdict.scores[0] > 0.99 and verdict.scores[6] < 0.01


def test_an_open_clip_model_is_loaded_by_its_name(tmp_path):
    detector = find_detector(write_open_clip(tmp_path))
    scores = detector(torch.rand(5, 40, 40, 3))
    assert scores.shape == (5,) and ((scores > 0) & (scores < 1)).all()
