"""The volume renderer: closed forms, what it returns, and rays that meet nothing."""

import math

import pytest
import threestudio
import torch
from threestudio.utils.ops import get_ray_directions, get_rays
from torch import nn

from jointdreamer.testing.cameras import camera_ring

STATE_DICT_KEYS = [
    "bbox",
    "estimator.resolution",
    "estimator.aabbs",
    "estimator.occs",
    "estimator.binaries",
]


class Ball(nn.Module):
    """A ball of constant density and colour, or a soft one; counts the points it is asked for."""

    def __init__(self, density=3.0, radius=0.6, softness=None):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.density, self.radius, self.softness = density, radius, softness
        self.n_points = 0

    def forward_density(self, points):
        self.n_points += len(points)
        distance = points.norm(dim=-1, keepdim=True)
        if self.softness is None:
            inside = (distance < self.radius).float()
        else:
            inside = torch.sigmoid((self.radius - distance) / self.softness)
        return self.scale * self.density * inside

    def forward(self, points, output_normal=False):
        features = torch.full_like(points, 0.25) * self.scale
        out = {"density": self.forward_density(points), "features": features}
        if output_normal:
            out["normal"] = out["shading_normal"] = torch.nn.functional.normalize(points, dim=-1)
        return out


class Cube(Ball):
    """A cube whose sides lie on the borders of cells of the occupancy grid (1/16 wide)."""

    def forward_density(self, points):
        self.n_points += len(points)
        inside = points.abs().amax(dim=-1, keepdim=True) < 0.5
        return self.scale * self.density * inside


def renderer_of(ball, requires_normal=False, **config):
    material = threestudio.find("no-material")(
        {"color_activation": "none", "requires_normal": requires_normal}
    )
    background = threestudio.find("solid-color-background")({"color": [0.0, 0.5, 1.0]})
    return threestudio.find("nerf-volume-renderer")(
        config, geometry=ball, material=material, background=background
    )


def views(n_view=2, size=9, distance=2.5, fovy_deg=40.0):
    c2w = camera_ring(1, n_view, distance)["c2w"]
    focal = 0.5 * size / math.tan(math.radians(fovy_deg) / 2)
    directions = get_ray_directions(size, size, focal).expand(n_view, -1, -1, -1)
    rays_o, rays_d = get_rays(directions, c2w, keepdim=True)
    return {"rays_o": rays_o, "rays_d": rays_d, "light_positions": c2w[:, :3, 3]}


def filled_grid(renderer):
    renderer.train()
    for step in range(0, 160, 16):
        renderer.update_step(0, step)
    return renderer


def chord(batch, radius):
    """How far each ray runs inside the ball."""
    along = (batch["rays_o"] * batch["rays_d"]).sum(-1)
    squared = radius**2 - ((batch["rays_o"] ** 2).sum(-1) - along**2)
    return 2 * squared.clamp(min=0).sqrt()[..., None]


def test_a_homogeneous_ball_has_its_closed_form_opacity_depth_and_colour():
    ball = Ball(density=1.5, radius=0.6)
    renderer = renderer_of(ball, grid_prune=False, num_samples_per_ray=2000).eval()
    batch = views()
    with torch.no_grad():
        out = renderer(**batch)
    length = chord(batch, 0.6)
    # each of the two surfaces is met with an error of at most half a step
    tolerance = 1.5 * renderer.render_step_size
    expected = 1 - torch.exp(-1.5 * length)
    assert expected.max() > 0.8
    torch.testing.assert_close(out["opacity"], expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(out["comp_rgb_fg"], 0.25 * out["opacity"].expand(-1, -1, -1, 3))
    behind = torch.tensor([0.0, 0.5, 1.0]) * (1 - out["opacity"])
    torch.testing.assert_close(out["comp_rgb"], out["comp_rgb_fg"] + behind)
    # mean distance of absorption: entry + 1/sigma - L exp(-sigma L) / (1 - exp(-sigma L))
    entry = -(batch["rays_o"] * batch["rays_d"]).sum(-1, keepdim=True) - length / 2
    mean = entry + 1 / 1.5 - length * torch.exp(-1.5 * length) / expected.clamp(min=1e-6)
    seen = length > 0.3
    torch.testing.assert_close(
        (out["depth"] / out["opacity"])[seen], mean[seen], rtol=0, atol=2 * tolerance
    )


def test_z_variance_is_that_of_the_absorption_and_zero_for_faint_rays():
    renderer = renderer_of(Ball(density=400.0), grid_prune=False, num_samples_per_ray=2000).eval()
    batch = views()
    with torch.no_grad():
        dense = renderer(**batch)["z_variance"]
        renderer.geometry.density = 0.1
        faint = renderer(**batch)["z_variance"]
    # behind a surface of density sigma the absorption is exponential: variance 1 / sigma^2
    assert dense.max() < 4 * (1 / 400) ** 2 + renderer.render_step_size**2
    assert faint.max() == 0


@pytest.mark.parametrize("prune_alpha", [False, True])
def test_the_occupancy_grid_changes_speed_and_not_the_image(prune_alpha):
    cube = Cube(density=30.0)
    batch = views(size=16)
    images, n_points = [], []
    for grid_prune in (False, True):
        renderer = renderer_of(cube, grid_prune=grid_prune, prune_alpha_threshold=prune_alpha)
        filled_grid(renderer).eval()
        cube.n_points = 0
        with torch.no_grad():
            images.append(renderer(**batch)["comp_rgb"])
        n_points.append(cube.n_points)
    # dropping what lies behind a transmittance of 1e-4 changes a colour by no more than that
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=2e-4 if prune_alpha else 1e-5)
    assert n_points[1] < 0.3 * n_points[0]


def test_training_returns_samples_and_evaluation_returns_images_only():
    renderer = filled_grid(renderer_of(Ball(), requires_normal=True, return_comp_normal=True))
    images = {"comp_rgb", "comp_rgb_fg", "comp_rgb_bg", "opacity", "depth", "z_variance"}
    images |= {"comp_normal"}
    out = renderer(**views())
    n_samples = len(out["weights"])
    for name, width in [("weights", 1), ("t_points", 1), ("t_intervals", 1), ("t_dirs", 3),
                        ("points", 3), ("density", 1), ("features", 3), ("normal", 3),
                        ("shading_normal", 3)]:  # fmt: skip
        assert out[name].shape == (n_samples, width), name
    assert out["ray_indices"].shape == (n_samples,)
    assert out["comp_rgb"].shape == (2, 9, 9, 3)
    assert out["depth"].shape == out["opacity"].shape == out["z_variance"].shape == (2, 9, 9, 1)
    sums = torch.zeros(2 * 9 * 9).index_add(0, out["ray_indices"], out["weights"][:, 0])
    torch.testing.assert_close(sums.view(2, 9, 9, 1), out["opacity"])
    renderer.eval()
    with torch.no_grad():
        assert set(renderer(**views())) == images


def test_normals_are_composited_towards_the_camera_and_mapped_to_colours():
    renderer = filled_grid(renderer_of(Ball(density=200.0), requires_normal=True)).eval()
    batch = views(size=15)
    with torch.no_grad():
        out = renderer(**batch)
    normal = out["comp_normal"][0, 7, 7] / out["opacity"][0, 7, 7] * 2 - 1
    assert (normal * -batch["rays_d"][0, 7, 7]).sum() > 0.98
    assert out["comp_normal"][0, 0, 0].abs().max() == 0
    renderer.train()
    assert "comp_normal" not in renderer(**batch)


def test_chunked_evaluation_changes_nothing():
    ball = Ball(softness=0.05)
    batch = views()
    results = []
    for chunk in (37, 100000, 0):
        renderer = renderer_of(ball, eval_chunk_size=chunk, grid_prune=False).eval()
        with torch.no_grad():
            results.append(renderer(**batch)["comp_rgb"])
    # not to the last bit: some CPUs round matrix products of other sizes otherwise
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(results[1], results[2], rtol=0, atol=1e-6)


def test_only_training_is_randomized():
    renderer = filled_grid(renderer_of(Ball(softness=0.1), num_samples_per_ray=32))
    batch = views()
    assert not torch.equal(renderer(**batch)["comp_rgb"], renderer(**batch)["comp_rgb"])
    renderer.eval()
    assert torch.equal(renderer(**batch)["comp_rgb"], renderer(**batch)["comp_rgb"])
    renderer = filled_grid(renderer_of(Ball(softness=0.1), randomized=False))
    assert torch.equal(renderer(**batch)["comp_rgb"], renderer(**batch)["comp_rgb"])


def test_rays_that_meet_nothing_show_the_background_and_keep_the_graph():
    ball = Ball()
    renderer = renderer_of(ball).train()  # the grid is empty: no update yet
    out = renderer(**views())
    torch.testing.assert_close(out["comp_rgb"], out["comp_rgb_bg"])
    assert out["opacity"].abs().max() == 0
    (out["comp_rgb"].sum() + out["opacity"].sum() + out["z_variance"].sum()).backward()
    assert ball.scale.grad == 0
    assert ball.n_points == 1  # the one placeholder of zero length


def test_the_gradient_reaches_the_geometry():
    ball = Ball(density=1.0, radius=0.6)
    renderer = renderer_of(ball, grid_prune=False, num_samples_per_ray=1000, randomized=False)
    batch = views()
    renderer(**batch)["opacity"].sum().backward()
    length = chord(batch, 0.6)
    # d/ds (1 - exp(-s L)) = L exp(-s L) at s = 1
    expected = (length * torch.exp(-length)).sum()
    assert abs(ball.scale.grad / expected - 1) < 0.02


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 9, 9, 3)])
def test_bg_color_replaces_the_background(shape):
    renderer = renderer_of(Ball(density=0.0)).eval()
    color = torch.rand(shape)
    with torch.no_grad():
        out = renderer(**views(), bg_color=color)
    expected = color[:, None, None] if len(shape) == 2 else color
    torch.testing.assert_close(out["comp_rgb"], expected.expand(2, 9, 9, 3))


def test_the_grid_follows_the_geometry_every_sixteen_training_steps_only():
    renderer = renderer_of(Ball(density=50.0)).train()
    renderer.update_step(0, 15)
    assert not renderer.estimator.binaries.any()
    renderer.update_step(0, 16, on_load_weights=True)
    assert not renderer.estimator.binaries.any()
    renderer.eval().update_step(0, 16)
    assert not renderer.estimator.binaries.any()
    renderer.train().update_step(0, 16)
    occupied = renderer.estimator.binaries.float().mean().item()
    assert abs(occupied - 4 / 3 * math.pi * 0.6**3 / 8) < 0.02


def test_state_dict_keys_are_threestudios():
    renderer = renderer_of(Ball())
    assert list(renderer.state_dict()) == STATE_DICT_KEYS
    assert renderer.estimator.binaries.shape == (1, 32, 32, 32)
    assert renderer.render_step_size == pytest.approx(1.732 * 2 / 512)
