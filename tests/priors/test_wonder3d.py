"""Wonder3D: its six fixed views, what it is told of them, and what it predicts."""

import pytest
import torch
from PIL import Image
from threestudio_jointdreamer.priors.fixed_views import AZIMUTHS
from threestudio_jointdreamer.priors.image_prior import (
    Cameras,
    ImagePriorOptions,
    Reference,
    load_image_prior,
)
from threestudio_jointdreamer.priors.loading import load_model
from threestudio_jointdreamer.priors.multiview import use_cross_view_attention
from threestudio_jointdreamer.priors.wonder3d import (
    COLOURS,
    EMBEDDED_ANGLES,
    NORMALS,
    Wonder3D,
    camera_and_domain,
)
from threestudio_jointdreamer.priors.wonder3d_unet import Wonder3DUNet
from transformers import CLIPImageProcessor

from jointdreamer.testing.random_image_priors import WONDER3D, build_wonder3d

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_wonder3d(tmp_path_factory.mktemp("priors") / "wonder3d")


def load_unet(folder):
    return load_model(Wonder3DUNet, str(folder), "unet", CPU, torch.float32)


def load(folder, **options) -> Wonder3D:
    prior = load_image_prior(str(folder), CPU, options=ImagePriorOptions(**options))
    assert isinstance(prior, Wonder3D)
    return prior


def ring(azimuth, elevation=0.0, distance=2.0, reference=0) -> Cameras:
    """The cameras of one object, or of several where `azimuth` is a list of lists."""
    azimuth = torch.as_tensor(azimuth, dtype=torch.float32)
    azimuth = azimuth[None] if azimuth.ndim == 1 else azimuth
    elevation = torch.as_tensor(elevation).expand_as(azimuth)
    views = torch.stack([elevation, azimuth, torch.full_like(azimuth, distance)], dim=-1)
    return Cameras(views, views[:, reference : reference + 1])


@pytest.mark.parametrize(
    ("azimuth", "reference", "places"),
    [
        ([0, 90, 180, 270], 0, [0, 2, 3, 4]),
        ([0, 90, 180, 270], 2, [3, 4, 0, 2]),
        ([-30, 60, 150, -120], 0, [0, 2, 3, 4]),
        ([10, 55, 100, 190, 280, 325], 0, [0, 1, 2, 3, 4, 5]),
        ([357, 90, 182], 0, [0, 2, 3]),
        ([1, 359], 1, None),
        ([45, 0], 1, [1, 0]),
    ],
)
def test_views_find_their_places(folder, azimuth, reference, places):
    prior = load(folder)
    cameras = ring(azimuth, reference=reference)
    if places is None:
        with pytest.raises(ValueError, match="has one view at each of 0, 45"):
            prior.places(cameras)
    else:
        assert prior.places(cameras).tolist() == [places]


def test_objects_have_places_of_their_own(folder):
    views = ring([[0, 90, 180, 270], [90, 180, 270, 0]]).views
    cameras = Cameras(views, torch.stack([views[0, 1], views[1, 1]])[:, None])
    assert load(folder).places(cameras).tolist() == [[4, 0, 2, 3], [4, 0, 2, 3]]


def test_a_layout_it_was_not_made_for_is_refused(folder):
    prior = load(folder)
    with pytest.raises(
        ValueError,
        match="120.0° of azimuth.*0, 45, 90, 180, 270, 315° and energy.azimuth_tolerance=5"
        ".*data.n_view=4",
    ):
        prior.places(ring([0, 120, 240]))
    with pytest.raises(
        ValueError, match="elevation 20.0°.*elevation_tolerance=15.*elevation_range"
    ):
        prior.places(ring([0, 90, 180, 270], elevation=20.0))


def test_tolerances_can_be_raised(folder):
    assert load(folder, azimuth_tolerance=15).places(ring([0, 75])).tolist() == [[0, 2]]
    steep = ring([0, 90], elevation=-40.0)
    assert load(folder, elevation_tolerance=45).places(steep).tolist() == [[0, 2]]


def test_fixed_azimuths_are_those_of_the_published_poses():
    """Camera centres computed from the checkout's pose files: front, right and back, rounded."""
    front, right, back = (
        torch.tensor(x)
        for x in ([-1.105, -0.597, 0.335], [0.685, -0.963, 0.542], [1.105, 0.597, -0.335])
    )
    up = torch.tensor([0.0, 0.49, 0.872])

    def turned(centre):
        across = torch.linalg.cross(up, front)
        return torch.atan2(centre @ across / across.norm(), centre @ front / front.norm()).rad2deg()

    assert turned(right).item() == pytest.approx(AZIMUTHS[2], abs=0.5)
    assert abs(turned(back).item()) == pytest.approx(AZIMUTHS[3], abs=0.5)

    def polar_and_azimuth(x):
        return torch.stack([torch.acos(x[2] / x.norm()), torch.atan2(x[1], x[0])])

    for centre, place in ((right, 2), (back, 3)):
        expected = (polar_and_azimuth(centre) - polar_and_azimuth(front)) % (2 * torch.pi)
        told = torch.tensor(EMBEDDED_ANGLES[place]) % (2 * torch.pi)
        torch.testing.assert_close(told, expected, atol=3e-3, rtol=0)


def test_camera_and_domain_are_sines_and_cosines_of_five_numbers():
    numbers = torch.tensor([0.0, -0.1686, 1.6934, 0.0, 1.0])
    told = camera_and_domain(torch.tensor([EMBEDDED_ANGLES[2]]), COLOURS)
    torch.testing.assert_close(told, torch.cat([numbers.sin(), numbers.cos()])[None])


def test_the_reference_is_seen_as_its_own_program_sees_it(folder):
    prior = load(folder)
    torch.manual_seed(0)
    rgb = (torch.rand(2, 3, 64, 64) * 255).round() / 255
    seen = prior.look_at(rgb)
    images = [Image.fromarray((x.permute(1, 2, 0) * 255).round().byte().numpy()) for x in rgb]
    size = prior.image_encoder.config.image_size
    processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size=size)
    with torch.no_grad():
        pixels = processor(images, return_tensors="pt").pixel_values
        embedding = prior.image_encoder(pixels).image_embeds
        latents = prior.prior.vae.encode(rgb * 2 - 1).latent_dist.mode() * 0.5  # scaling_factor
    torch.testing.assert_close(seen.embedding, embedding, atol=0.02, rtol=0.02)
    torch.testing.assert_close(seen.latents, latents)
    assert seen.embedding.shape == (2, 24) and seen.latents.shape == (2, 4, 16, 16)


def test_renders_of_another_size_are_brought_to_its_own(folder):
    assert load(folder).look_at(torch.rand(1, 3, 40, 40)).latents.shape == (1, 4, 16, 16)


def predictions(prior, cameras, guided=True, seed=0):
    n_object, n_view = cameras.azimuth_offset.shape
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    x_t, t = randn(n_object, n_view, 4, 16, 16), torch.tensor([300, 700])[:n_object]
    reference = Reference(randn(n_object, 24), randn(n_object, 4, 16, 16))
    with torch.no_grad():
        eps = prior.predict_noise(x_t, t, reference, cameras, guided)
    return x_t, t, reference, eps


def one_object(unet, x, t, embedding, latents, numbers, **kwargs):
    """The UNet's output for pictures of one object, with the reference joined to them."""
    count = len(x)
    with torch.no_grad():
        return unet(
            torch.cat([x, latents.expand(count, -1, -1, -1)], dim=1),
            t,
            embedding.expand(count, 1, -1),
            class_labels=numbers,
            **kwargs,
        ).sample


def test_colours_alone_are_predicted_object_by_object(folder):
    prior = load(folder)
    cameras = ring([[0, 90, 180, 270], [20, 110, 200, 290]])
    x_t, t, reference, (given, without) = predictions(prior, cameras)
    unet = use_cross_view_attention(load_unet(folder), 4)
    numbers = camera_and_domain(torch.tensor(EMBEDDED_ANGLES)[[0, 2, 3, 4]], COLOURS)
    for n in range(2):
        seen = (reference.embedding[n], reference.latents[n])
        for eps, (embedding, latents) in ((given, seen), (without, map(torch.zeros_like, seen))):
            alone = {"cross_attention_kwargs": {"cross_domain": False}}
            expected = one_object(unet, x_t[n], t[n], embedding, latents, numbers, **alone)
            torch.testing.assert_close(eps[n], expected, atol=1e-3, rtol=1e-3)


def test_without_guidance_only_the_given_reference_is_asked_for(folder):
    cameras = ring([0, 90, 180, 270])
    *_, (given, without) = predictions(load(folder), cameras, guided=False)
    *_, (expected, _) = predictions(load(folder), cameras, guided=True)
    assert without is None
    torch.testing.assert_close(given, expected)


def test_with_normals_both_domains_are_predicted_together(folder):
    prior = load(folder, cross_domain=True)
    cameras = ring([0, 90, 180, 270])
    torch.manual_seed(5)
    x_t, t, reference, (given, without) = predictions(prior, cameras)
    torch.manual_seed(5)
    unet = use_cross_view_attention(load_unet(folder), 4)
    angles = torch.tensor(EMBEDDED_ANGLES)[[0, 2, 3, 4]]
    normals, colours = (camera_and_domain(angles, d) for d in (NORMALS, COLOURS))
    embedding, latents = reference.embedding[0], reference.latents[0]
    a = prior.prior.schedule.alphas_cumprod
    noise, last = torch.randn(4, 4, 16, 16), torch.tensor(999)
    alone = {"cross_attention_kwargs": {"cross_domain": False}}
    eps = one_object(unet, noise, last, embedding, latents, normals, **alone)
    imagined = (noise - (1 - a[999]).sqrt() * eps) / a[999].sqrt()
    noisy = a[t[0]].sqrt() * imagined + (1 - a[t[0]]).sqrt() * torch.randn(4, 4, 16, 16)
    both = torch.cat([noisy, x_t[0]]), t[0]
    numbers = torch.cat([normals, colours])
    expected = one_object(unet, *both, embedding, latents, numbers)[4:]
    torch.testing.assert_close(given[0], expected, atol=2e-3, rtol=2e-3)
    nothing = torch.zeros_like(embedding), torch.zeros_like(latents)
    expected = one_object(unet, *both, *nothing, numbers)[4:]
    torch.testing.assert_close(without[0], expected, atol=2e-3, rtol=2e-3)


def test_any_number_of_its_views_is_taken_as_it_comes(folder):
    prior = load(folder)
    for azimuth in ([0, 180], [0, 45, 90, 180, 270, 315], [0, 90, 270]):
        x_t, *_, (given, _) = predictions(prior, ring(azimuth))
        assert given.shape == x_t.shape


def test_it_is_recognised_by_its_own_config():
    assert Wonder3D.recognises(WONDER3D)
    assert not Wonder3D.recognises({"_class_name": "UNet2DConditionModel", "in_channels": 8})


def test_a_model_of_the_first_stage_predicts_colours_alone(tmp_path):
    folder = build_wonder3d(tmp_path, cd_attention_mid=False)
    x_t, *_, (given, _) = predictions(load(folder), ring([0, 90, 180, 270]))
    assert given.shape == x_t.shape
    with pytest.raises(ValueError, match="cd_attention_mid=false: set energy.cross_domain=false"):
        load(folder, cross_domain=True)


def test_an_image_encoder_of_another_width_is_refused(tmp_path):
    folder = build_wonder3d(tmp_path, cross_attention_dim=40)
    with pytest.raises(ValueError, match="attends to tokens of 40 numbers, but image_encoder/.*24"):
        load(folder)
