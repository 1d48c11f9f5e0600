"""The pair classifier: relative cameras, features, the head, and its folder."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from threestudio_jointdreamer.priors.dino import IMAGE_MEAN, IMAGE_STD, cls_features
from threestudio_jointdreamer.priors.pair_classifier import (
    PairClassifier,
    PairHead,
    load_pair_classifier,
    relative_pose,
)

from jointdreamer.testing.cameras import camera_ring
from jointdreamer.testing.random_classifiers import (
    IMAGE_SIZE,
    PATCH,
    WIDTH,
    build_dino,
    build_pair_classifier,
    random_classifier,
)

CPU = torch.device("cpu")
HEAD_WEIGHTS = "head/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def classifier():
    return random_classifier()


@pytest.fixture
def folder(tmp_path):
    return build_pair_classifier(tmp_path / "classifier")


def random_images(n=3, size=IMAGE_SIZE, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def random_cameras(n=5, seed=0, distance=2.5):
    """Camera-to-world matrices anywhere around the origin, looking anywhere."""
    generator = torch.Generator().manual_seed(seed)
    c2w = torch.eye(4, dtype=torch.float64).repeat(n, 1, 1)
    c2w[:, :3, :3] = rotations(n, generator)
    direction = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    c2w[:, :3, 3] = distance * F.normalize(direction)
    return c2w


def rotations(n, generator):
    q, _ = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator, dtype=torch.float64))
    return q * torch.linalg.det(q)[:, None, None]


def as_matrix(pose):
    return pose.unflatten(-1, (4, 4))


def test_the_pose_is_the_second_camera_in_the_firsts_frame():
    first, second = random_cameras(seed=1, distance=1.0), random_cameras(seed=2, distance=1.0)
    expected = torch.linalg.inv(first) @ second
    torch.testing.assert_close(as_matrix(relative_pose(first, second)), expected)


def test_the_way_back_is_the_inverse_and_no_way_the_identity():
    first, second = random_cameras(seed=1), random_cameras(seed=2)
    there, back = relative_pose(first, second), relative_pose(second, first)
    identity = torch.eye(4, dtype=torch.float64).expand(5, 4, 4)
    torch.testing.assert_close(as_matrix(there) @ as_matrix(back), identity)
    assert not torch.allclose(there, back)
    torch.testing.assert_close(as_matrix(relative_pose(first, first)), identity)


def test_the_pose_does_not_depend_on_how_the_world_is_turned():
    first, second = random_cameras(seed=1), random_cameras(seed=2)
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = rotations(1, torch.Generator().manual_seed(3))[0]
    torch.testing.assert_close(
        relative_pose(turn @ first, turn @ second), relative_pose(first, second)
    )


def test_the_pose_does_not_depend_on_the_cameras_distances():
    near = [random_cameras(seed=s, distance=1.1) for s in (1, 2)]
    far = [random_cameras(seed=1, distance=30.0), random_cameras(seed=2, distance=4.0)]
    torch.testing.assert_close(relative_pose(*near), relative_pose(*far))
    assert relative_pose(*far).abs().max() <= 2


def test_equal_steps_around_an_object_are_one_pose():
    """And threestudio's cameras that face each other are turned by 180° about their up axis."""
    c2w = camera_ring(1, 4)["c2w"]
    c2w[:, :3, 3] /= 2
    steps = relative_pose(c2w, c2w.roll(-1, 0))
    torch.testing.assert_close(steps, steps[:1].expand(4, -1), atol=1e-6, rtol=0)
    ring = camera_ring(1, 4)["c2w"]
    assert not torch.allclose(steps[0], relative_pose(ring[:1], ring[3:])[0], atol=0.1)


def test_poses_take_any_batch_shape_and_change_no_camera():
    c2w = random_cameras(6)
    before = c2w.clone()
    pose = relative_pose(c2w.unflatten(0, (2, 3)), c2w.flip(0).unflatten(0, (2, 3)))
    assert pose.shape == (2, 3, 16)
    torch.testing.assert_close(pose.flatten(0, 1), relative_pose(c2w, c2w.flip(0)))
    assert torch.equal(c2w, before)


def test_features_are_the_mean_over_scales_of_dinos(classifier):
    images = random_images()
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD))
    expected = 0
    for size in (32, 16, 8):  # ⅓ of 32 is 10.7 pixels, of which whole patches are 8
        resized = F.interpolate(
            (images - mean) / std, (size, size), mode="bilinear", antialias=True
        )
        expected = expected + cls_features(classifier.backbone, resized) / 3
    torch.testing.assert_close(classifier.features(images), expected)


@pytest.mark.parametrize("size", [20, 32, 50])
def test_images_of_any_size_are_resized_first(classifier, size):
    images = random_images(size=size)
    resized = F.interpolate(images, (32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(classifier.features(images), classifier.features(resized))


def test_no_scale_is_smaller_than_a_patch():
    seen = []
    classifier = random_classifier(scales=(0.01,))
    classifier.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"].shape[-1]), with_kwargs=True
    )
    classifier.features(random_images())
    assert seen == [PATCH]


def test_a_half_precision_backbone_makes_single_precision_features(classifier):
    exact = classifier.features(random_images())
    half = random_classifier()
    half.backbone.half()
    features = half.features(random_images())
    assert features.dtype == torch.float32
    assert (features - exact).norm() < 0.01 * exact.norm()


def test_logits_depend_on_both_views_their_order_and_their_cameras(classifier):
    a, b = classifier.features(random_images(seed=1)), classifier.features(random_images(seed=2))
    pose = relative_pose(random_cameras(3, seed=1), random_cameras(3, seed=2)).float()
    other = relative_pose(random_cameras(3, seed=1), random_cameras(3, seed=3)).float()
    logit = classifier.head(a, b, pose)
    assert logit.shape == (3,)
    for changed in ((b, a, pose), (a, a, pose), (b, b, pose), (a, b, other)):
        assert (classifier.head(*changed) - logit).abs().min() > 1e-3


def test_pairs_of_images_are_classified_as_their_features_are(classifier):
    first, second = random_images(seed=1), random_images(seed=2)
    cameras = random_cameras(3, seed=1).float(), random_cameras(3, seed=2).float()
    torch.testing.assert_close(
        classifier(first, second, *cameras),
        classifier.head(
            classifier.features(first), classifier.features(second), relative_pose(*cameras)
        ),
    )


def test_the_documented_training_step_reaches_the_head_and_not_the_frozen_backbone():
    classifier = random_classifier()
    classifier.backbone.requires_grad_(False)
    cameras = random_cameras(3, seed=1).float(), random_cameras(3, seed=2).float()
    logits = classifier(random_images(), random_images(seed=1), *cameras)
    F.binary_cross_entropy_with_logits(logits, torch.tensor([1.0, 0.0, 1.0])).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in classifier.head.parameters())
    assert all(p.grad is None for p in classifier.backbone.parameters())


def test_a_new_head_has_the_documented_defaults():
    config = PairHead().config
    assert (config.feature_dim, config.image_size) == (384, 224)  # DINO ViT-S/16
    assert list(config.scales) == [1.0, 1 / 2, 1 / 3]  # the authors'


@pytest.mark.parametrize("scales", [[], [0.0], [1.0, 1.5]])
def test_impossible_scales_are_refused(scales):
    with pytest.raises(ValueError, match="scales=.*each in"):
        PairHead(scales=scales)


def test_a_saved_classifier_loads_frozen_and_unchanged(folder, classifier):
    loaded = load_pair_classifier(str(folder), CPU)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    cameras = random_cameras(3).float(), random_cameras(3, seed=1).float()
    images = random_images(), random_images(seed=1)
    assert torch.equal(loaded(*images, *cameras), classifier(*images, *cameras))
    assert loaded.image_size == IMAGE_SIZE


def test_a_folder_holds_two_stock_layouts(folder):
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert files == {
        "head/config.json",
        HEAD_WEIGHTS,
        "backbone/config.json",
        "backbone/model.safetensors",
    }
    assert "encoder.layer.0.attention.attention.query.weight" in load_file(
        folder / "backbone" / "model.safetensors"
    )


def test_a_head_of_a_published_backbone_is_saved_alone_and_finds_it(tmp_path, classifier):
    dino = build_dino(tmp_path / "dino")
    build_pair_classifier(tmp_path / "classifier", backbone=str(dino))
    assert not (tmp_path / "classifier" / "backbone").exists()
    loaded = load_pair_classifier(str(tmp_path / "classifier"), CPU)
    torch.testing.assert_close(
        loaded.features(random_images()), classifier.features(random_images())
    )


def test_another_backbone_can_be_named(folder, tmp_path):
    other = build_dino(tmp_path / "dino", seed=5)
    loaded = load_pair_classifier(str(folder), CPU, backbone_name_or_path=str(other))
    own = load_pair_classifier(str(folder), CPU)
    assert not torch.allclose(loaded.features(random_images()), own.features(random_images()))


def test_nothing_is_written_over(folder, classifier):
    before = (folder / HEAD_WEIGHTS).read_bytes()
    with pytest.raises(ValueError, match="exists already"):
        random_classifier(seed=1).save_pretrained(folder)
    assert (folder / HEAD_WEIGHTS).read_bytes() == before
    random_classifier(seed=1).save_pretrained(folder, overwrite=True)
    assert (folder / HEAD_WEIGHTS).read_bytes() != before


def test_a_head_and_a_backbone_of_other_widths_are_refused(folder, classifier):
    head = PairHead(feature_dim=2 * WIDTH, hidden_dim=8)
    with pytest.raises(ValueError, match="features of width 64, but the backbone's are 32 wide"):
        PairClassifier(classifier.backbone, head)
    shutil.rmtree(folder / "head")
    head.save_pretrained(folder / "head")
    with pytest.raises(ValueError, match="the.key=.*features of width 64"):
        load_pair_classifier(str(folder), CPU, key="the.key")


@pytest.mark.parametrize("part", ["head", "backbone"])
def test_a_missing_part_names_the_key(folder, part):
    shutil.rmtree(folder / part)
    with pytest.raises(FileNotFoundError, match=f"the.key=.*has no folder {part}/"):
        load_pair_classifier(str(folder), CPU, key="the.key")


def test_head_weights_that_do_not_fit_are_refused_by_name(folder):
    weights = load_file(folder / HEAD_WEIGHTS)
    weights["blocks.2.extra"] = weights.pop("logit.bias")
    save_file(weights, folder / HEAD_WEIGHTS)
    with pytest.raises(ValueError, match="missing logit.bias; unknown blocks.2.extra"):
        load_pair_classifier(str(folder), CPU)


def test_a_config_with_impossible_values_is_refused(folder):
    file = folder / "head" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scales": [2.0]}))
    with pytest.raises(ValueError, match="the.key=.*does not load as PairHead.*scales="):
        load_pair_classifier(str(folder), CPU, key="the.key")
