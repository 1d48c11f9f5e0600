"""ImageDream as the multi-view energy's model: the prompt's picture, and who looks at it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers.views import gradient, level_views
from threestudio_jointdreamer.energies.multiview import MultiviewEnergy, background_brightness
from threestudio_jointdreamer.guidance.jsd_guidance import JSDGuidance

from jointdreamer.testing.cameras import camera_ring
from jointdreamer.testing.prompts import RandomPrompts
from jointdreamer.testing.random_image_priors import build_imagedream


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(build_imagedream(tmp_path_factory.mktemp("imagedream")))


@pytest.fixture
def energy(folder):
    return MultiviewEnergy(
        {"pretrained_model_name_or_path": folder, "noise": "shared", "guidance_scale": 3.0}
    )


@pytest.fixture
def views(sd_prior):
    image = torch.rand(4, 40, 40, generator=torch.Generator().manual_seed(0))
    return level_views(sd_prior, prompt_utils=SimpleNamespace(image=image))


def test_the_guided_views_are_of_the_picture_and_of_none(energy, views):
    """ε_∅ + s (ε_y,image − ε_∅), each in a call of its own."""
    model = energy.multiview
    torch.manual_seed(0)
    C = energy(views)
    torch.manual_seed(0)
    rgb, opacity = views.prompt_utils.image[None].tensor_split([3], dim=1)
    with torch.no_grad():
        gray = background_brightness(views).view(2, 1, 1, 1)
        image = model.look_at(rgb * opacity + (1 - opacity) * gray, views.prior)
        none = replace(image, hidden=0 * image.hidden, latents=0 * image.latents)
        text, uncond = (
            x[:, None].expand(-1, 4, -1, -1)
            for x in (views.text_embeddings, views.uncond_text_embeddings)
        )
        with_it = model.predict_noise(views.noisy, views.t, text, views.c2w, image)
        without = model.predict_noise(views.noisy, views.t, uncond, views.c2w, none)
    denoise = views.prior.schedule.denoise
    x0, plain = (
        denoise(views.noisy, eps, views.t) for eps in (without + 3 * (with_it - without), with_it)
    )
    deviations = [x.std(dim=(1, 2, 3, 4), keepdim=True) for x in (plain, x0)]
    wanted = 0.5 * x0 * deviations[0] / deviations[1] + 0.5 * x0
    expected = -(wanted - views.denoised).square().sum(dim=(1, 2, 3, 4))
    made = {"hidden": image.hidden, "latents": image.latents, "with": with_it, "without": without}
    for name, tensor in (made | {"expected": expected, "C": C}).items():
        assert tensor.isfinite().all(), name
    torch.testing.assert_close(C, expected, rtol=1e-4, atol=0)
    assert gradient(C, views).isfinite().all()


def test_the_picture_is_put_before_gray_as_bright_as_the_renders_background(views):
    shows = torch.zeros(2, 4, 20, 20, 1)
    shows[..., :10, :] = 1
    behind = torch.tensor([[0.1, 0.2, 0.6], [0.5, 0.6, 0.7]]).view(2, 1, 1, 1, 3)
    rgb = torch.where(shows == 1, behind, torch.tensor(0.9))
    brightness = background_brightness(replace(views, rgb=rgb, opacity=1 - shows))
    torch.testing.assert_close(brightness, torch.tensor([0.3, 0.6]), atol=1e-3, rtol=0)
    full = replace(views, opacity=torch.ones(2, 4, 20, 20, 1))
    for unknown in (full, replace(views, rgb=None)):
        assert background_brightness(unknown).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("takes", "image", "message"),
    [
        (True, None, "needs a picture: set system.prompt_processor.image"),
        (False, torch.rand(4, 8, 8), "system.prompt_processor.image is set, but no model looks"),
    ],
)
def test_a_picture_that_is_missing_or_ignored_is_refused_at_the_first_step(
    folder, sd_folder, mv_folder, takes, image, message
):
    term = {
        "energy_type": "jsd-multiview-energy",
        "energy": {"pretrained_model_name_or_path": folder if takes else str(mv_folder)},
    }
    energy = {"energies": {"coherence": term, "nothing": {"energy_type": "jsd-zero-energy"}}}
    guidance = JSDGuidance(
        {
            "pretrained_model_name_or_path": str(sd_folder),
            "energy_type": "jsd-sum-energy",
            "energy": energy,
            "energy_weight": 0.0,
        }
    )
    prompts = RandomPrompts()
    prompts.image = image
    with pytest.raises(ValueError, match=message):
        guidance(torch.rand(4, 16, 16, 3), prompts, **camera_ring(1, 4))
