"""ImageDream: what the picture does to the views, and what its image encoder gives."""

import pytest
import torch
from threestudio_jointdreamer.priors.imagedream import ImageDream, ImagePrompt, load_image_encoder
from threestudio_jointdreamer.priors.loading import load_prior

from jointdreamer.testing.cameras import camera_ring
from jointdreamer.testing.random_image_priors import build_imagedream

CPU, F32 = torch.device("cpu"), torch.float32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(build_imagedream(tmp_path_factory.mktemp("imagedream")))


@pytest.fixture
def model(folder):
    prior = load_prior(folder, CPU, vae_from=folder)
    return ImageDream(prior, "folder", load_image_encoder(folder, "key", CPU, F32))


@pytest.fixture(scope="module")
def given():
    torch.manual_seed(0)
    c2w = camera_ring(2, 4)["c2w"].unflatten(0, (2, 4))
    return torch.randn(2, 4, 4, 16, 16), torch.tensor([300, 700]), torch.randn(2, 4, 24, 128), c2w


@torch.no_grad()
def test_a_picture_changes_the_views_of_its_own_object_alone(model, given):
    image = model.look_at(torch.rand(2, 3, 40, 40), model.prior)
    assert image.hidden.shape == (2, 5, 32) and image.latents.shape == (2, 4, 16, 16)
    eps = model.predict_noise(*given, image)
    assert eps.shape == given[0].shape
    for name in ("hidden", "latents"):
        changed = {"hidden": image.hidden.clone(), "latents": image.latents.clone()}
        changed[name][1] += 1
        difference = (model.predict_noise(*given, ImagePrompt(**changed)) - eps).abs().flatten(2)
        assert (difference[0] == 0).all() and (difference[1].amax(dim=1) > 1e-5).all(), name


@torch.no_grad()
def test_without_the_extra_frame_the_picture_is_tokens_alone(model, folder, given):
    local = ImageDream(model.prior, "folder", model.image_encoder, extra_frame=False)
    image = model.look_at(torch.rand(2, 3, 40, 40), model.prior)
    eps = local.predict_noise(*given, image)
    elsewhere = ImagePrompt(image.hidden, image.latents + 1)
    assert torch.equal(local.predict_noise(*given, elsewhere), eps)
    assert not torch.allclose(model.predict_noise(*given, image), eps)


def test_the_passes_after_the_first_have_no_picture():
    image = ImagePrompt(torch.ones(2, 5, 32), torch.ones(2, 4, 16, 16)).for_passes(3)
    for x in (image.hidden, image.latents):
        assert len(x) == 6 and (x[:2] == 1).all() and (x[2:] == 0).all()


@torch.no_grad()
def test_features_are_those_before_clips_last_layer(model):
    encoder, rgb = model.image_encoder, torch.rand(1, 3, 16, 16)
    before_the_last = {}
    last = encoder.vision_model.encoder.layers[-1]
    hook = last.register_forward_pre_hook(lambda _, args: before_the_last.update(x=args[0]))
    image = model.look_at(rgb, model.prior)
    hook.remove()
    assert torch.equal(image.hidden, before_the_last["x"])


def test_other_text_and_image_encoders_are_refused(model):
    image = model.look_at(torch.rand(1, 3, 16, 16), model.prior)
    with pytest.raises(ValueError, match="embeddings are 96 wide .* an energy's text_encoder_name"):
        model.predict_noise(torch.randn(1, 4, 4, 16, 16), 0, torch.randn(1, 4, 24, 96), 0, image)
    model.image_encoder.config.hidden_size = 48
    with pytest.raises(ValueError, match="folder takes image features of 32 numbers, .* makes 48"):
        ImageDream(model.prior, "folder", model.image_encoder)
