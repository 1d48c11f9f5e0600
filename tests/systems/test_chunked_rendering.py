"""Rendering in chunks gives the numbers of rendering in one piece."""

import random

import pytest
import threestudio
import torch
from helpers.tiny_run import tiny_config
from omegaconf import OmegaConf
from threestudio.models.renderers import nerf_volume_renderer
from threestudio_jointdreamer.systems import chunked_rendering
from threestudio_jointdreamer.systems.chunked_rendering import FIRST, Fitting, render_in_chunks
from threestudio_jointdreamer.systems.losses import opaque, orientation, sparsity, z_variance

LOSSES = orientation, sparsity, opaque, z_variance


@pytest.fixture
def system(sd_folder, mv_folder, tmp_path):
    config = tiny_config(sd_folder, mv_folder, tmp_path)
    config["system"]["renderer"]["randomized"] = False  # the only random numbers that differ
    config["system"]["background_type"] = "neural-environment-map-background"
    config["system"]["background"] = {"random_aug": False}
    config["system"]["material_type"] = "diffuse-with-point-light-material"
    config["system"]["material"] = {"ambient_only_steps": 0, "diffuse_prob": 0.7}
    torch.manual_seed(0)
    system = threestudio.find(config["system_type"])(OmegaConf.create(config["system"]))
    system.do_update_step(0, 0)
    system.batch = next(iter(data_of(config)))
    return system


def data_of(config):
    data = threestudio.find(config["data_type"])(OmegaConf.create(config["data"]))
    data.setup("fit")
    return data.train_dataloader()


def gradients(system, chunk):
    """Of a loss of everything that the guidance and the regularisers see."""
    system.cfg.render_chunk = chunk
    system.zero_grad()
    torch.manual_seed(1)
    out = system(system.batch)
    direction = torch.randn(out["comp_rgb"].shape, generator=torch.Generator().manual_seed(2))
    loss = (out["comp_rgb"] * direction).sum() + sum(loss(out) for loss in LOSSES)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in system.named_parameters()}


@pytest.mark.parametrize("seed", range(4))  # of the shading
@pytest.mark.parametrize("chunk", [1, 48, 10**6])  # a row of all views, some rows, everything
def test_gradients_are_those_of_one_piece(system, chunk, seed):
    random.seed(seed)
    loss, expected = gradients(system, 0)
    random.seed(seed)
    ours, found = gradients(system, chunk)
    torch.testing.assert_close(ours, loss)
    assert any(grad.abs().max() > 0 for grad in expected.values())
    for name, grad in expected.items():
        if grad is None:
            assert found[name] is None, name
            continue
        error = (found[name] - grad).norm() / grad.norm().clamp_min(1e-12)
        assert error < 1e-5, name


@pytest.mark.parametrize("pieces", [2, 5])
def test_pieces_of_parts_have_their_gradients(system, monkeypatch, pieces):
    random.seed(0)
    loss, expected = gradients(system, 0)
    monkeypatch.setattr(Fitting, "rays", lambda *_: 64)
    asked = []
    monkeypatch.setattr(Fitting, "pieces", lambda *n: asked.append(n) or pieces)
    system.cfg.guidance["memory"] = "low"
    random.seed(0)
    ours, found = gradients(system, None)
    assert len(asked) > 1
    torch.testing.assert_close(ours, loss)
    for name, grad in expected.items():
        if grad is not None:
            error = (found[name] - grad).norm() / grad.norm().clamp_min(1e-12)
            assert error < 1e-5, name


def test_evaluation_has_the_same_pictures(system):
    system.eval()
    with torch.no_grad():
        expected = system(system.batch)
        system.cfg.render_chunk = 20
        found = system(system.batch)
    assert {"comp_rgb", "comp_rgb_bg", "opacity", "comp_normal"} <= found.keys()
    for name, picture in found.items():
        torch.testing.assert_close(picture, expected[name])


def test_all_chunks_have_one_draw_of_the_background(system):
    system.background.cfg.random_aug, system.background.cfg.random_aug_prob = True, 1.0
    system.cfg.render_chunk = 1
    out = system(system.batch)
    colors = out["comp_rgb"][out["opacity"][..., 0] == 0]
    assert len(colors) > 1 and len(colors.unique(dim=0)) <= len(out["comp_rgb"])  # one a view


def test_parts_without_the_object_are_no_empty_picture(system, caplog):
    gradients(system, 1)  # the uppermost rows show nothing
    assert "background only" not in caplog.text
    system.renderer.estimator.binaries.fill_(False)
    gradients(system, 0)
    assert "The occupancy grid is empty" in caplog.text


def test_a_renderer_of_whole_pictures_is_refused(system):
    with pytest.raises(ValueError, match=r"system\.render_chunk=16 .*set it to 0"):
        render_in_chunks(
            lambda **batch: {"comp_rgb": torch.zeros(2, 8, 8, 3)},
            system.background,
            [],
            system.batch,
            16,
        )


def test_rays_are_marched_once(system, monkeypatch):
    march, calls = nerf_volume_renderer.sample_rays, []

    def count(*args, **options):
        calls.append(len(args[1]))
        return march(*args, **options)

    monkeypatch.setattr(nerf_volume_renderer, "sample_rays", count)
    gradients(system, 48)
    assert len(calls) > 1 and sum(calls) == system.batch["rays_d"][..., 0].numel()


@pytest.mark.parametrize(("with_graph", "whole"), [(False, False), (True, False), (True, True)])
def test_what_does_not_fit_is_divided_and_tried_again(system, monkeypatch, with_graph, whole):
    random.seed(0)
    loss, expected = gradients(system, 0)
    total, fitting, render = system.batch["rays_d"][..., 0].numel(), Fitting(), system.renderer
    failed = []

    class Small(torch.nn.Module):
        """Has no room for more than a fifth of the rays."""

        def forward(self, samples=None, **batch):
            if (
                torch.is_grad_enabled() == with_graph
                and len(batch["rays_d"].flatten(0, 2)) * 5 > total
            ):
                failed.append(len(batch["rays_d"].flatten(0, 2)))
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return render(samples=samples, **batch)

    monkeypatch.setattr(Fitting, "rays", lambda *_: 0 if whole else total // 2)
    monkeypatch.setattr(chunked_rendering, "takes_samples", lambda renderer: True)
    system._fitting, system.cfg.render_chunk = fitting, None
    monkeypatch.setattr(type(system), "_saves_memory", lambda self: True)
    system.renderer = Small()
    random.seed(0)
    ours, found = gradients(system, None)
    assert failed and max(failed) == (total if whole else total // 2)
    assert (fitting.held < chunked_rendering.HELD) == whole
    torch.testing.assert_close(ours, loss)
    for name, grad in expected.items():
        if grad is not None:
            torch.testing.assert_close(found[name], grad)
    assert (fitting.without < 1) != with_graph  # the next step begins with smaller parts
    with pytest.raises(torch.OutOfMemoryError):  # a chosen size is kept to
        gradients(system, total // 2)


class OnGPU(torch.Tensor):
    is_cuda = True


def test_parts_and_pieces_fit_into_the_free_memory(system, monkeypatch):
    monkeypatch.setattr(chunked_rendering, "free_memory", lambda device: 10**9)
    fitting, rays = Fitting(), torch.zeros(4, 256, 256, 3).as_subclass(OnGPU)
    assert 0 < fitting.rays(rays, system.renderer) <= FIRST  # nothing is known yet
    fitting.note(n_bytes=700_000, n_rays=100, n_samples=1000)
    assert fitting.rays(rays[:, :64, :64], system.renderer) == 0  # all at once: 115 MB
    part = fitting.rays(rays, system.renderer)
    assert 0.3e9 < part * 7000 / 2 < 0.8e9  # without a graph
    some = rays[:, :160, :160]  # 717 MB: too much to be held, little enough without a graph
    assert fitting.rays(some, system.renderer) == some[..., 0].numel() // 2
    nothing_held = Fitting(held=0.0)
    nothing_held.note(n_bytes=700_000, n_rays=100, n_samples=1000)
    assert nothing_held.rays(rays[:, :64, :64], system.renderer) > 0
    unable = fitting.rays(rays, lambda **batch: batch)  # cannot be told its samples
    assert unable < part
    pieces = fitting.pieces(3 * 10**6, torch.device("cuda"))
    assert 3 * 10**6 * 700 / pieces < 0.7e9
