"""jsd-guidance from the outside: schedules, precision, batches, energies of one's own, errors."""

from dataclasses import fields

import pytest
import torch
from threestudio_jointdreamer.energies import Energy

from jointdreamer.testing.cameras import camera_ring


def test_an_outsiders_energy_needs_no_change_elsewhere(
    make_guidance, prompts, cameras, rgb, register
):
    @register("outsiders-energy")
    class SameBrightness(Energy):
        def __call__(self, views):
            rgb = views.prior.decode(views.denoised.flatten(0, 1))
            brightness = rgb.mean(dim=(1, 2, 3)).unflatten(0, (views.n_object, views.n_view))
            return -brightness.var(dim=1)

    guidance = make_guidance(energy_type="outsiders-energy", energy_weight=1.0)
    out = guidance(rgb.requires_grad_(), prompts, **cameras)
    out["loss_sds"].backward()
    assert out["energy"] < 0 and out["energy_grad_norm"] > 0
    assert rgb.grad.abs().sum() > 0


def test_outputs_are_threestudios_and_scalars(make_guidance, prompts, cameras, rgb):
    out = make_guidance(min_step_percent=0.1, max_step_percent=0.2)(rgb, prompts, **cameras)
    assert (out["min_step"], out["max_step"]) == (100, 200)
    assert 100 <= out["timestep"] <= 200
    assert all(torch.as_tensor(value).numel() == 1 for value in out.values())
    assert "eval" not in out


@pytest.mark.parametrize("timestep_per", ["object", "batch"])
def test_views_share_their_timestep_with_their_object_or_with_the_batch(
    make_guidance, prompts, cameras, rgb, monkeypatch, timestep_per
):
    guidance, seen = make_guidance(timestep_per=timestep_per), []
    of = guidance.prior.predict_noise
    monkeypatch.setattr(
        guidance.prior, "predict_noise", lambda x, t, e: seen.append(t) or of(x, t, e)
    )
    for _ in range(3):
        guidance(rgb, prompts, **cameras)
    text, uncond = torch.stack(seen).view(3, 2, 2, 4).unbind(1)  # calls, objects, views
    assert torch.equal(text, uncond)
    assert (text == text[:, :, :1]).all()
    assert torch.equal(text[:, 0], text[:, 1]) == (timestep_per == "batch")


def test_an_energy_sees_objects_by_views_with_their_cameras(
    make_guidance, prompts, cameras, rgb, register
):
    seen = []

    @register("test-spy-energy")
    class Spy(Energy):
        def __call__(self, views):
            seen.append(views)
            return views.denoised.sum(dim=(1, 2, 3, 4))

    guidance = make_guidance(energy_type="test-spy-energy")
    opacity = torch.rand(8, 20, 20, 1, requires_grad=True)
    guidance(rgb.requires_grad_(), prompts, **cameras, opacity=opacity)
    (views,) = seen
    assert (views.n_object, views.n_view) == (2, 4)
    for name, value in cameras.items():
        assert torch.equal(getattr(views, name).flatten(0, 1), value)
    assert torch.equal(views.rgb.flatten(0, 1), rgb)
    assert torch.equal(views.opacity.flatten(0, 1), opacity)
    assert torch.equal(views.text_embeddings[1], prompts.text_embeddings[0])  # not view-dependent
    assert torch.equal(views.uncond_text_embeddings[1], prompts.uncond_text_embeddings[0])
    assert views.denoised.shape == (2, 4, 4, 16, 16)
    tensors = {f.name: getattr(views, f.name) for f in fields(views)}
    with_graph = {k for k, v in tensors.items() if isinstance(v, torch.Tensor) and v.requires_grad}
    assert with_graph == {"denoised", "noisy"}  # back to x_t
    noisy = views.prior.schedule.add_noise(views.latents, views.noise, views.t)
    torch.testing.assert_close(views.noisy, noisy)

    guidance(torch.rand(8, 16, 16, 4), prompts, **cameras, rgb_as_latents=True)
    assert seen[1].rgb is None and seen[1].opacity is None


def test_latents_are_decoded_at_the_size_that_a_threestudio_system_asks_for(make_guidance):
    guidance = make_guidance()
    latents = torch.randn(2, 4, 12, 12)
    own = guidance.decode_latents(latents)  # as LatentNeRF does
    larger = guidance.decode_latents(latents, latent_height=32, latent_width=24)  # as SJC does
    assert own.shape == (2, 3, 64, 64) and larger.shape == (2, 3, 128, 96)
    assert 0 <= own.min() < own.max() <= 1
    same = guidance.prior.decode(latents, latent_size=16)
    assert torch.equal(own, same)


def test_the_switched_scale_is_the_one_that_is_used(make_guidance, prompts, cameras, rgb):
    def loss(guidance_scale, step):
        guidance = make_guidance(guidance_scale=guidance_scale)
        guidance.do_update_step(0, step)
        torch.manual_seed(0)
        return guidance(rgb, prompts, **cameras)["loss_sds"]

    switched = [5000, 30.0, 50.0, 5001]
    assert torch.equal(loss(switched, 5000), loss(30.0, 0))
    assert torch.equal(loss(switched, 5001), loss(50.0, 0))
    assert not torch.equal(loss(30.0, 0), loss(50.0, 0))


def test_time_annealing_and_clipping_follow_the_step(make_guidance):
    guidance = make_guidance(
        min_step_percent=[0, 0.98, 0.02, 100],
        max_step_percent=[0, 0.98, 0.5, 100],
        grad_clip=[0, 2.0, 8.0, 100],
        cfg_rescale=[0, 0.0, 0.8, 100],
    )
    assert (guidance.min_step, guidance.max_step, guidance.grad_clip) == (980, 980, 2.0)
    guidance.do_update_step(0, 50)
    assert (guidance.min_step, guidance.max_step, guidance.grad_clip) == (500, 740, 5.0)
    assert guidance.method.cfg_rescale == pytest.approx(0.4)


def test_the_whole_range_of_timesteps_may_be_drawn(make_guidance):
    guidance = make_guidance(min_step_percent=0.0, max_step_percent=1.0)
    assert (guidance.min_step, guidance.max_step) == (0, 999)


def test_the_gradient_is_clamped_elementwise(make_guidance, prompts, cameras):
    x = torch.rand(8, 16, 16, 4, requires_grad=True)
    make_guidance(grad_clip=0.01)(x, prompts, **cameras, rgb_as_latents=True)["loss_sds"].backward()
    torch.testing.assert_close(8 * x.grad.abs().max(), torch.tensor(0.01), atol=1e-5, rtol=1e-3)


def test_latents_of_another_size_are_resized(make_guidance, prompts, cameras):
    x = torch.rand(8, 32, 32, 4, requires_grad=True)
    make_guidance()(x, prompts, **cameras, rgb_as_latents=True)["loss_sds"].backward()
    assert x.grad.shape == x.shape and x.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_of_the_trainer_is_left_outside(make_guidance, prompts, cameras, rgb, dtype):
    guidance = make_guidance()

    def run(rgb):
        torch.manual_seed(0)
        return guidance(rgb, prompts, **cameras)["loss_sds"]

    expected = run(rgb)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run(rgb), expected)
    half = rgb.to(dtype).requires_grad_()
    loss = run(half)
    assert loss.dtype == torch.float32
    loss.backward()
    assert half.grad.dtype == dtype and half.grad.isfinite().all()


def test_no_tensor_of_the_caller_is_changed(make_guidance, prompts, cameras, rgb, mv_folder):
    guidance = make_guidance(
        energy_type="jsd-multiview-energy",
        energy={"pretrained_model_name_or_path": str(mv_folder), "mask_with_opacity": True},
    )
    batch = cameras | {"rgb": rgb, "opacity": torch.rand(8, 20, 20, 1)}
    before = {name: value.clone() for name, value in batch.items()}
    guidance(batch["rgb"], prompts, **{k: v for k, v in batch.items() if k != "rgb"})
    assert all(torch.equal(batch[name], value) for name, value in before.items())


def test_nothing_of_the_guidance_is_trainable_or_saved(make_guidance):
    system = torch.nn.Module()
    system.guidance = make_guidance()
    assert list(system.parameters()) == [] and system.state_dict() == {}


def test_compile_reaches_the_prior(make_guidance, compiled):
    make_guidance(compile=True)
    assert compiled and not any(compiled)


def test_a_batch_that_does_not_divide_into_objects_is_refused(make_guidance, prompts, rgb):
    with pytest.raises(ValueError, match="batch of 6 views is not a multiple of .*n_view=4"):
        make_guidance(n_view=4)(rgb[:6], prompts, **camera_ring(2, 3))


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (
            {"energy_type": "jsd-none-energy"},
            "'jsd-none-energy' is not registered.*jsd-zero",
        ),
        ({"weighting_strategy": "dreamfusion"}, "weighting_strategy='dreamfusion'.*fantasia3d"),
        (
            {"denoised_from": "all"},
            "denoised_from='all' is unknown.*uncond, text, cfg, render",
        ),
        ({"energy_gradient": "none"}, "energy_gradient='none' is unknown: use one of denoised"),
        ({"n_view": 0}, r"n_view=0 is out of range: give a number in \[1, inf\)"),
        ({"denoised_clamp": -1.0}, r"denoised_clamp=-1.0 is out of range: .* in \(0, inf\)"),
        ({"guidance_scale": [1.0, 2.0]}, r"guidance.guidance_scale=\[1.0, 2.0\] is no schedule"),
        ({"energy_weight": "late"}, "guidance.energy_weight='late' is no schedule"),
        ({"energy_weight": None}, "guidance.energy_weight=None is no schedule"),
        ({"grad_clip": [0, 1.0, 2.0, 3, 4]}, "guidance.grad_clip=.* is no schedule"),
        ({"min_step_percent": 2}, r"guidance.min_step_percent=2 is out of range: .* in \[0, 1\]"),
        ({"max_step_percent": [5, 0.9, 0.5, 5]}, "guidance.max_step_percent=.*do not increase"),
        ({"cfg_rescale": 1.5}, "guidance.cfg_rescale=1.5 is out of range"),
        ({"min_step_percent": 0.9, "max_step_percent": 0.5}, "0.9 is above .*max_step_percent=0.5"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_malformed_configs_are_refused_at_construction(make_guidance, cfg, message):
    with pytest.raises(ValueError, match=message):
        make_guidance(**cfg)


def test_missing_weights_name_the_guidances_key(make_guidance):
    with pytest.raises(FileNotFoundError, match="system.guidance.pretrained_model_name_or_path="):
        make_guidance(pretrained_model_name_or_path="/nowhere")


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        (lambda views: views.denoised.sum(), r"Bad returned \(\) for 2 objects"),
        (lambda views: 0.0, "Bad returned float for 2 objects"),
        (
            lambda views: views.denoised.detach().sum(dim=(1, 2, 3, 4)),
            "without a gradient in views",
        ),
    ],
)
def test_a_malformed_energy_is_told_what_it_got_wrong(
    make_guidance, prompts, cameras, rgb, register, energy, message
):
    @register("test-bad-energy")
    class Bad(Energy):
        def __call__(self, views):
            return energy(views)

    with pytest.raises(ValueError, match=message):
        make_guidance(energy_type="test-bad-energy")(rgb, prompts, **cameras)
