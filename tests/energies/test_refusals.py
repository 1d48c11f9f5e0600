"""What the energies refuse, and what they say then."""

import pytest
import torch
from helpers.views import level_views


@pytest.mark.parametrize(
    ("kind", "cfg", "message"),
    [
        ("multiview", {"noise": "old"}, "noise='old' is unknown: use one of shared, fresh"),
        (
            "multiview",
            {"mask_with_opacity": "both"},
            "'both' is unknown: use one of false, true, noisy",
        ),
        (
            "wonder3d",
            {"reference": "back"},
            "reference='back' is unknown: use one of first, frontal",
        ),
        ("wonder3d", {"strength": 1.5}, "strength=1.5 is out of range"),
        ("wonder3d", {"num_inference_steps": 0}, "num_inference_steps=0 is out of range"),
        ("wonder3d", {"noise": "old"}, "noise='old' is unknown: use one of shared, fresh"),
        ("wonder3d", {"azimuth_tolerance": -1.0}, "azimuth_tolerance=-1.0 is out of range"),
        (
            "classifier",
            {"output": "odds"},
            "output='odds' is unknown: use one of logit, log_sigmoid",
        ),
        ("classifier", {"decode_latent_size": 0}, "decode_latent_size=0 is out of range"),
        ("classifier", {"reference": "back"}, "reference='back' is unknown: use one of first"),
    ],
)
def test_unknown_values_are_refused(make_energy, kind, cfg, message):
    with pytest.raises(ValueError, match=f"energy.*{message}"):
        make_energy(kind, **cfg)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("multiview", "pretrained_model_name_or_path"),
        ("wonder3d", "pretrained_model_name_or_path"),
        ("classifier", "pretrained_model_name_or_path"),
        ("classifier", "backbone_name_or_path"),
        ("order", "pretrained_model_name_or_path"),
        ("pose", "template_model_name_or_path"),
    ],
)
def test_missing_weights_name_the_energys_key(make_energy, kind, key):
    with pytest.raises(FileNotFoundError, match=f"energy.{key}='/nowhere'"):
        make_energy(kind, **{key: "/nowhere"})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("multiview", "holds no multi-view UNet.*class_embed_type=projection"),
        ("wonder3d", "energy.pretrained_model.* holds no image-to-image model"),
    ],
)
def test_a_text_to_image_model_is_refused(make_energy, sd_folder, kind, message):
    with pytest.raises(ValueError, match=message):
        make_energy(kind, pretrained_model_name_or_path=str(sd_folder))


NO_OPACITY = "=[Tt]rue, but the system does not pass opacity"
FRESH = {"noise": "fresh"}


@pytest.mark.parametrize(
    ("kind", "cfg", "changes", "message"),
    [
        ("classifier", {}, {"n_view": 1}, "system.guidance.n_view"),
        ("wonder3d", {}, {"n_view": 1}, "system.guidance.n_view"),
        ("order", {}, {"n_view": 2}, "2 per object: set system.guidance.n_view to 3"),
        ("pose", {}, {"n_view": 1}, "system.guidance.n_view"),
        ("wonder3d", {}, {"rgb": None}, "looks at a render, but with rgb_as_latents there are"),
        ("wonder3d", {"strength": 0.0}, {}, "energy.strength=0 is less than one"),
        ("wonder3d", {"white_background": True}, {"opacity": None}, NO_OPACITY),
        ("multiview", {"mask_with_opacity": True}, {"opacity": None}, NO_OPACITY),
        (
            *("multiview", {}, {"noisy": torch.zeros(2, 4, 4, 8, 8)}),
            r"\(4, 16, 16\).*\(4, 8, 8\): set energy.noise=fresh",
        ),
        (
            *("wonder3d", FRESH, {"denoised": torch.zeros(2, 4, 16, 16, 16)}),
            "latents of 4 channels, the 2D prior of 16: set energy.vae_name_or_path",
        ),
    ],
)
def test_views_that_do_not_suit_are_refused(make_energy, sd_prior, kind, cfg, changes, message):
    with pytest.raises(ValueError, match=message):
        make_energy(kind, **cfg)(level_views(sd_prior, **changes))
