"""The Frechet distance against closed forms, and which features it is measured in."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from jointdreamer.evaluation import fid
from jointdreamer.evaluation.fid import find_extractor, frechet_distance, reference_pictures

CPU = torch.device("cpu")


class MeanColour:
    """A CLIP whose embedding is the mean colour."""

    name, identity = "mean colour", "1"

    def images(self, pictures):
        return torch.stack([torch.tensor(p.reshape(-1, 3).mean(0)) for p in pictures])


def test_distance_of_two_gaussians_is_the_closed_form():
    standard = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)).double()
    standard = (standard - standard.mean(0)) @ torch.linalg.inv(
        torch.linalg.cholesky(standard.T.cov()).T
    )
    shift, scale = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([1.0, 3.0, 0.5]).double()
    expected = shift.square().sum() + (scale - 1).square().sum()
    found = frechet_distance(standard, standard * scale + shift)
    assert found == pytest.approx(expected.item(), rel=1e-6)


def test_equal_sets_are_at_no_distance_and_one_picture_has_no_distribution():
    features = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-4)
    with pytest.raises(ValueError, match="1 references and 3 renders"):
        frechet_distance(torch.zeros(1, 2), torch.zeros(3, 2))


def test_without_inception_features_are_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for choice in ("auto", "clip"):
        extractor = find_extractor(choice, MeanColour(), CPU)
        assert extractor.name == "clip mean colour"
    with pytest.raises(ValueError, match=r"inception-2015.* does not exist"):
        find_extractor("inception", MeanColour(), CPU)


def test_other_weights_than_the_published_are_not_opened(tmp_path):
    path = tmp_path / "inception.pth"
    path.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(ValueError, match="is not the published"):
        find_extractor(f"inception:{path}", MeanColour(), CPU)


@pytest.mark.parametrize("choice", ["dino", "clip:file", ""])
def test_unknown_features_are_refused(choice):
    with pytest.raises(ValueError, match="--fid-features"):
        find_extractor(choice, MeanColour(), CPU)


def test_references_are_all_pictures_below_a_folder(tmp_path):
    for name in ("b.png", "a/c.JPG", "a/d.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    found = [path.relative_to(tmp_path).as_posix() for path in reference_pictures(tmp_path)]
    assert found == ["a/c.JPG", "a/d.webp", "b.png"]
    with pytest.raises(FileNotFoundError, match="--fid-reference"):
        reference_pictures(tmp_path / "none")
    (tmp_path / "a" / "c.JPG").unlink()
    (tmp_path / "b.png").unlink()
    with pytest.raises(ValueError, match="holds 1 pictures"):
        reference_pictures(tmp_path)


@pytest.mark.skipif(
    importlib.util.find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed"
)
def test_inception_sees_pictures_of_any_size(tmp_path, monkeypatch):
    """With random weights: the published ones are a download."""
    from torch_fidelity import feature_extractor_inceptionv3 as published

    monkeypatch.setattr(
        published.FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None
    )
    path = tmp_path / "weights.pth"
    torch.save({}, path)
    extract = fid.inception_extractor(path, CPU).features
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (size, size, 3), np.uint8) for size in (32, 48)]
    features = extract(pictures)
    assert features.shape == (2, 2048)
    assert torch.allclose(features[:1], extract(pictures[:1]), atol=1e-5)
