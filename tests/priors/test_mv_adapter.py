"""MV-Adapter: attention along rows, its cameras, schedule and files; parity is elsewhere."""

from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import Attention
from helpers.views import random_views
from safetensors.torch import load_file, save_file
from threestudio_jointdreamer.energies.multiview import MultiviewEnergy
from threestudio_jointdreamer.priors.multiview import camera_ring
from threestudio_jointdreamer.priors.mv_adapter import RowAttention, camera_rays, shifted
from threestudio_jointdreamer.priors.schedule import NoiseSchedule

from jointdreamer.convert import convert
from jointdreamer.testing.random_priors import build_mv_adapter

LEVEL = camera_ring(4, elevation_deg=0.0)


@pytest.fixture(scope="module")
def file(tmp_path_factory, sd_folder):
    path = tmp_path_factory.mktemp("adapter") / "mvadapter_t2mv_sd21.safetensors"
    return build_mv_adapter(path, sd_folder / "unet")


@pytest.fixture
def make(file, sd_folder):
    def make(name=file, **cfg):
        base = {"base_model_name_or_path": str(sd_folder), "guidance_scale": 2.0}
        return MultiviewEnergy({"pretrained_model_name_or_path": str(name), **base, **cfg})

    return make


def predict(energy, views):
    torch.manual_seed(0)  # of the noise
    return energy.predict(views)


@pytest.fixture
def views(sd_prior):
    views = random_views(sd_prior, n_object=2, n_view=4)
    return replace(views, c2w=LEVEL.expand(2, -1, -1, -1))


def test_rows_of_all_views_attend_to_each_other():
    """Against a loop over views and rows."""
    attn = Attention(8, heads=2, dim_head=4)
    layer, x = RowAttention(8), torch.randn(2 * 3, 16, 8)
    layer.n_view = 3
    expected = attn(x)
    rows = x.view(2, 3, 4, 4, 8)
    for n in range(2):
        for row in range(4):
            seen = rows[n, :, row].reshape(12, 8)
            q, k, v = (
                to(seen).view(12, 2, 4).transpose(0, 1)
                for to in (layer.to_q_mv, layer.to_k_mv, layer.to_v_mv)
            )
            joint = ((q @ k.mT / 2).softmax(dim=-1) @ v).transpose(0, 1).reshape(12, 8)
            added = layer.to_out_mv[0](joint).view(3, 4, 8)
            expected.view(2, 3, 4, 4, 8)[n, :, row] += added
    attn.set_processor(layer)
    torch.testing.assert_close(attn(x), expected)


def test_rays_are_one_direction_and_a_place_in_a_turned_world():
    """From the front a camera stands at -y and looks along +y; at 90 degrees it stands at +x."""
    rays = camera_rays(LEVEL)[:2]
    expected = torch.tensor([[0.0, 1, 0, 0, -1, 0], [-1, 0, 0, 1, 0, 0]])
    torch.testing.assert_close(rays, (expected + 1) / 2)


def test_schedule_is_the_one_it_was_trained_with():
    """ᾱ of β of a ratio ᾱ / (1 - ᾱ) that is divided by 1 to 8."""
    schedule = NoiseSchedule(torch.linspace(0.999, 0.002, 1000))
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    share = torch.arange(1000) / 999
    snr = (snr.log() * (1 - share) + (snr / 8).log() * share).exp()
    torch.testing.assert_close(shifted(schedule).alphas_cumprod, snr / (1 + snr))


def test_its_views_see_each_other_and_their_cameras(make, views, batch_sizes):
    energy = make()
    calls = batch_sizes(energy.model.unet)
    M = predict(energy, views)
    assert M.shape == views.denoised.shape and calls == [16]  # two objects, with and without text
    rgb = views.rgb.clone()
    rgb[0, 1] = 0.0
    changed = predict(energy, replace(views, rgb=rgb))
    assert not torch.allclose(changed[0, 3], M[0, 3])
    torch.testing.assert_close(changed[1], M[1])
    turned = replace(views, c2w=views.c2w[:, [1, 2, 3, 0]])
    assert not torch.allclose(predict(energy, turned), M)
    torch.manual_seed(0)
    (g,) = torch.autograd.grad(energy(views).sum(), views.denoised)
    torch.testing.assert_close(g, 2 * (M - views.denoised.detach()))


def test_a_converted_folder_gives_the_files_numbers(make, views, file, tmp_path):
    said = convert(str(file), tmp_path / "adapter", torch.float32)
    assert (said["recognised_as"], said["parts"]) == ("MV-Adapter", ["mv_adapter"])
    assert torch.equal(predict(make(tmp_path / "adapter"), views), predict(make(), views))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("adapter.body.0.resnets.0.block2.bias"), "missing.*block2.bias"),
        (lambda w: w.update({"more": torch.zeros(1)}), "unknown encoder.more"),
        (lambda w: w.update({"x.to_k_ref.weight": torch.zeros(1)}), "makes views of a picture"),
        (
            lambda w: [w.pop(name) for name in list(w) if name.startswith("mid_block")],
            "is for a UNet of 3 self-attention layers .*base_model_name_or_path has 4",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(make, file, tmp_path, change, message):
    weights = load_file(file)
    change(weights)
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=f"energy.pretrained_model_name_or_path=.*{message}"):
        make(tmp_path / "other.safetensors")


def test_without_the_model_that_it_changes_it_is_refused(make):
    with pytest.raises(ValueError, match="set energy.base_model_name_or_path to the one"):
        make(base_model_name_or_path=None)


@pytest.mark.parametrize(
    ("c2w", "message"),
    [
        (camera_ring(4, elevation_deg=20.0), r"elevation 20.0°.*set data.elevation_range"),
        (camera_ring(8, elevation_deg=0.0), "135.0° of azimuth away from the front.*0, 45, 90"),
        (LEVEL[[0, 1, 1, 2]], "90.0° of azimuth .* MV-Adapter has one view at each of"),
    ],
)
def test_views_that_it_was_not_trained_for_are_refused(make, sd_prior, c2w, message):
    views = random_views(sd_prior, n_object=1, n_view=len(c2w))
    with pytest.raises(ValueError, match=message):
        make().predict(replace(views, c2w=c2w[None]))
