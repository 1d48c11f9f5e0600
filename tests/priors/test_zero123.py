"""Zero-1-to-3: the relative pose, how it sees the reference, and what it predicts."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from helpers import originals
from safetensors.torch import load_file, save_file
from threestudio_jointdreamer.priors.image_prior import (
    KINDS,
    Cameras,
    ImagePrior,
    ImagePriorOptions,
    Reference,
    load_image_prior,
    register_image_prior,
)
from threestudio_jointdreamer.priors.zero123 import CCProjection, Zero123, relative_pose

from jointdreamer.testing.random_image_priors import build_wonder3d, build_zero123

CPU = torch.device("cpu")
# elevation, azimuth, distance of three views of two objects, and of their references
VIEWS = torch.tensor(
    [
        [[10.0, 0.0, 1.5], [30.0, 90.0, 1.5], [-20.0, 350.0, 2.0]],
        [[0.0, 45.0, 1.8], [0.0, 135.0, 1.8], [60.0, -135.0, 1.2]],
    ]
)
CAMERAS = Cameras(VIEWS, torch.tensor([[[10.0, 20.0, 1.5]], [[5.0, 45.0, 1.8]]]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_zero123(tmp_path_factory.mktemp("priors") / "zero123")


def load(folder) -> Zero123:
    prior = load_image_prior(str(folder), CPU)
    assert isinstance(prior, Zero123)
    return prior


def predictions(prior, guided=True):
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(2, 3, 4, 16, 16, generator=generator)
    t = torch.tensor([300, 700])
    reference = Reference(
        torch.randn(2, 24, generator=generator), torch.randn(2, 4, 16, 16, generator=generator)
    )
    with torch.no_grad():
        return x_t, t, reference, prior.predict_noise(x_t, t, reference, CAMERAS, guided)


def test_the_pose_counts_from_the_reference():
    pose = relative_pose(CAMERAS)
    for n in range(2):
        elevation, azimuth, distance = CAMERAS.reference[n, 0].deg2rad().tolist()
        for v in range(3):
            e, a, _ = VIEWS[n, v].deg2rad().tolist()
            polar = (torch.pi / 2 - e) - (torch.pi / 2 - elevation)
            turned = torch.tensor(a - azimuth)
            farther = VIEWS[n, v, 2] - CAMERAS.reference[n, 0, 2]
            expected = torch.tensor([polar, turned.sin(), turned.cos(), farther])
            torch.testing.assert_close(pose[n, v], expected, atol=1e-6, rtol=1e-5)


def test_the_reference_itself_is_no_move():
    views = torch.tensor([[[15.0, 270.0, 2.0]]])
    pose = relative_pose(Cameras(views, views))
    torch.testing.assert_close(pose, torch.tensor([[[0.0, 0.0, 1.0, 0.0]]]))


def test_the_reference_is_seen_as_in_its_training(folder):
    prior = load(folder)
    torch.manual_seed(0)
    rgb = torch.rand(2, 3, 64, 64)
    seen = prior.look_at(rgb)
    small = F.interpolate(rgb, (16, 16), mode="bicubic", align_corners=True)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    with torch.no_grad():
        embedding = prior.image_encoder((small - mean) / std).image_embeds
        latents = prior.prior.vae.encode(rgb * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(seen.embedding, embedding)
    torch.testing.assert_close(seen.latents, latents)  # without the VAE's scaling factor


def test_each_view_is_predicted_from_reference_and_pose(folder):
    x_t, t, reference, (given, without) = predictions(load(folder))
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    projection = CCProjection.from_pretrained(folder / "cc_projection")
    pose = relative_pose(CAMERAS)
    for n in range(2):
        for v in range(3):
            token = projection(torch.cat([reference.embedding[n], pose[n, v]]))[None, None]
            joined = torch.cat([x_t[n, v], reference.latents[n]])[None]
            nothing = torch.cat([x_t[n, v], torch.zeros(4, 16, 16)])[None]
            with torch.no_grad():
                expected = unet(joined, t[n], token).sample[0]
                unconditional = unet(nothing, t[n], torch.zeros_like(token)).sample[0]
            torch.testing.assert_close(given[n, v], expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(without[n, v], unconditional, atol=1e-4, rtol=1e-4)


def test_without_guidance_only_the_given_reference_is_asked_for(folder):
    *_, (given, without) = predictions(load(folder), guided=False)
    *_, (expected, _) = predictions(load(folder))
    assert without is None
    torch.testing.assert_close(given, expected)


def test_a_projection_without_sizes_in_its_config_is_the_published_one(tmp_path):
    torch.manual_seed(0)
    CCProjection().save_pretrained(tmp_path / "saved")
    assert CCProjection.from_config({"_class_name": "CCProjection"}).projection.in_features == 772
    assert CCProjection.from_pretrained(tmp_path / "saved").projection.out_features == 768


def test_the_other_published_layout_of_the_projection_is_read(folder, tmp_path):
    other = tmp_path / "zero123"
    shutil.copytree(folder, other)
    (other / "cc_projection").rename(other / "clip_camera_projection")
    file = other / "clip_camera_projection" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({k.replace("projection.", "proj."): v for k, v in weights.items()}, file)
    config = {"_class_name": "CLIPCameraProjection", "embedding_dim": 24}
    (file.parent / "config.json").write_text(json.dumps(config | {"additional_embeddings": 4}))
    expected, given = (predictions(load(path))[-1][0] for path in (folder, other))
    assert torch.equal(given, expected)


def test_its_original_checkpoint_is_read_as_it_is(tmp_path):
    file = tmp_path / "105000.ckpt"
    weights = {k: v for k, v in originals.zero123().items() if not k.startswith("model_ema.")}
    torch.save(originals.lightning_checkpoint(weights), file)
    prior = load(file)
    assert (prior.prior.latent_channels, prior.prior.latent_size) == (4, 32)
    projection = prior.cc_projection.projection.weight
    assert torch.equal(projection, weights["cc_projection.weight"])
    width = prior.token_width()
    reference = Reference(torch.randn(2, width), torch.randn(2, 4, 8, 8))
    x_t, t = torch.randn(2, 3, 4, 8, 8), torch.tensor([300, 700])
    with torch.no_grad():
        given, without = prior.predict_noise(x_t, t, reference, CAMERAS, guided=True)
    assert given.isfinite().all() and not torch.allclose(given, without)


def test_a_missing_projection_is_named(folder, tmp_path):
    other = tmp_path / "zero123"
    shutil.copytree(folder, other)
    shutil.rmtree(other / "cc_projection")
    with pytest.raises(FileNotFoundError, match="energy.name='.*zero123'.*no folder cc_projection"):
        load_image_prior(str(other), CPU, key="energy.name")


def test_normals_are_not_offered(folder):
    with pytest.raises(ValueError, match="cross_domain=true, but .* is a zero123 model"):
        load_image_prior(str(folder), CPU, options=ImagePriorOptions(cross_domain=True))


def test_a_text_to_image_model_is_no_kind_of_image_prior(sd_folder):
    with pytest.raises(
        ValueError,
        match="no image-to-image model.*in_channels=4.*kinds: wonder3d, zero",
    ):
        load_image_prior(str(sd_folder), CPU, key="energy.name")


def test_a_vae_of_another_model_is_used(folder, sd_folder):
    prior = load_image_prior(str(folder), CPU, vae_from=str(sd_folder))
    ours = load_image_prior(str(folder), CPU)
    theirs, own = (p.prior.vae.encoder.conv_in.weight for p in (prior, ours))
    assert not torch.equal(theirs, own)


def test_users_add_kinds_of_their_own(tmp_path):
    @register_image_prior
    class Mine(ImagePrior):
        kind = "mine"

        @staticmethod
        def recognises(unet_config):
            return unet_config.get("sample_size") == 8

        def look_at(self, rgb):
            return Reference(rgb.flatten(1), self._mode(rgb))

        def predict_noise(self, x_t, t, reference, cameras, guided):
            return x_t, None

    try:
        small, large = (build_zero123(tmp_path / str(n), latent_size=n) for n in (8, 16))
        assert load_image_prior(str(small), CPU).kind == "mine"
        assert load_image_prior(str(large), CPU).kind == "zero123"
    finally:
        KINDS.remove(Mine)


def test_kinds_do_not_mistake_each_other(folder, tmp_path):
    other = build_wonder3d(tmp_path / "wonder3d")
    configs = [json.loads((path / "unet" / "config.json").read_text()) for path in (folder, other)]
    for config, expected in zip(configs, ("zero123", "wonder3d"), strict=True):
        assert [kind.kind for kind in KINDS if kind.recognises(config)] == [expected]
