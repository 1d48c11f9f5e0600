"""Volume rendering of a density field, with an occupancy grid that skips empty space."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import nerfacc
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.renderers.base import Renderer
from threestudio.models.renderers.marching import (
    Samples,
    nerfacc_kernels_available,
    render_weights,
    sample_rays,
)
from threestudio.utils.ops import chunk_batch

_GRID_RESOLUTION = 32
_PRUNE_ALPHA = 0.01
_DIAGONAL = 1.732  # sqrt(3): `num_samples_per_ray` steps span the box's diagonal


@threestudio.register("nerf-volume-renderer")
class NeRFVolumeRenderer(Renderer):
    """Emission-absorption rendering at fixed steps (Mildenhall et al. 2020, eq. 3).

    With `grid_prune` only steps in cells where there was density lately are evaluated; the grid
    (nerfacc's `OccGridEstimator`, 32^3) follows the geometry every 16 training steps. With
    `prune_alpha_threshold` samples of opacity below 0.01 or behind an opaque surface are dropped
    before the evaluation that gradients run through. `randomized` shifts each training ray by a
    fraction of a step. `eval_chunk_size` points are evaluated at once outside training.

    Sampling and compositing run in nerfacc's CUDA functions where these are available (see
    `marching.nerfacc_kernels_available`), otherwise in PyTorch, on any device.
    """

    @dataclass
    class Config(Renderer.Config):
        num_samples_per_ray: Annotated[int, "[1, 65536]"] = 512
        eval_chunk_size: Annotated[int, "[0, inf)"] = 160000
        randomized: bool = True

        near_plane: Annotated[float, "[0, inf)"] = 0.0
        far_plane: Annotated[float, "(0, inf)"] = 1e10

        return_comp_normal: bool = False

        estimator: Annotated[str, ("occgrid",)] = "occgrid"

        grid_prune: bool = True
        prune_alpha_threshold: bool = True

    cfg: Config

    def configure(self, *parts: Any, **named_parts: Any) -> None:
        super().configure(*parts, **named_parts)
        self.estimator = nerfacc.OccGridEstimator(
            roi_aabb=self.bbox.view(-1), resolution=_GRID_RESOLUTION, levels=1
        )
        if not self.cfg.grid_prune:
            self.estimator.occs.fill_(True)
            self.estimator.binaries.fill_(True)
        self.render_step_size = _DIAGONAL * 2 * self.cfg.radius / self.cfg.num_samples_per_ray
        self._announced_kernels: bool | None = None

    def forward(
        self,
        rays_o: Float[Tensor, "B H W 3"],
        rays_d: Float[Tensor, "B H W 3"],
        light_positions: Float[Tensor, "B 3"],
        bg_color: Tensor | None = None,
        samples: Mapping[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> dict[str, Float[Tensor, "..."]]:
        """Render rays.

        Args:
            rays_d: unit vectors.
            light_positions: for the material.
            bg_color: [B C], [B H W C] or [C], in place of the background's colours.
            samples: ray_indices, t_points and t_intervals that an earlier call returned for these
                rays, which then are not marched again.
            kwargs: the rest of the batch, passed to the material in training.

        Returns:
            Images [B H W C]: comp_rgb, comp_rgb_fg (without background), comp_rgb_bg, opacity,
            depth (not divided by opacity), z_variance, and comp_normal (mapped to 0..1 and times
            opacity) in evaluation or with `return_comp_normal`. In training also the M samples:
            weights, t_points, t_intervals [M 1], t_dirs, points [M 3], ray_indices [M], and all
            that the geometry returned.
        """
        batch_shape = rays_o.shape[:3]
        origins, dirs = rays_o.reshape(-1, 3), rays_d.reshape(-1, 3)
        n_rays = origins.shape[0]
        if samples is None:
            ray_indices, t_starts, t_ends = self._sample(origins, dirs)
            t_points = ((t_starts + t_ends) / 2.0)[:, None]
            t_intervals = (t_ends - t_starts)[:, None]
        else:
            ray_indices, t_points, t_intervals = (
                samples[name] for name in ("ray_indices", "t_points", "t_intervals")
            )
        t_dirs = dirs[ray_indices]
        points = origins[ray_indices] + t_dirs * t_points
        n_rays_each = batch_shape[1] * batch_shape[2]
        sample_lights = light_positions[ray_indices // n_rays_each]

        geo_out, rgb = self._evaluate(points, t_dirs, sample_lights, kwargs)
        comp_rgb_bg = self.background(dirs=rays_d)
        density = geo_out["density"][:, 0]
        t_ends = t_intervals[:, 0]  # as if all began at 0: the lengths are what counts
        t_starts = torch.zeros_like(t_ends)
        if self._use_kernels(rays_o):
            weights, _, _ = nerfacc.render_weight_from_density(
                t_starts, t_ends, density, ray_indices=ray_indices, n_rays=n_rays
            )
        else:
            weights = render_weights(t_starts, t_ends, density, ray_indices)

        def integrate(values: Float[Tensor, "M D"] | None, by: Tensor = weights) -> Tensor:
            return nerfacc.accumulate_along_rays(
                by, values=values, ray_indices=ray_indices, n_rays=n_rays
            )

        opacity = integrate(None)
        comp_rgb_fg = integrate(rgb)
        # the spread of depth along each ray that meets a surface (HiFA, arXiv 2305.18766)
        normalized = weights / opacity.clamp(min=1e-5)[ray_indices, 0]
        z_mean = integrate(t_points, by=normalized)
        z_variance = integrate((t_points - z_mean[ray_indices]) ** 2, by=normalized)
        behind = self._flat_background(bg_color, comp_rgb_bg, batch_shape)

        images = {
            "comp_rgb": comp_rgb_fg + behind * (1.0 - opacity),
            "comp_rgb_fg": comp_rgb_fg,
            "comp_rgb_bg": comp_rgb_bg,
            "opacity": opacity,
            "depth": integrate(t_points),
            "z_variance": z_variance * (opacity > 0.5).float(),
        }
        if "normal" in geo_out and (self.cfg.return_comp_normal or not self.training):
            normal = F.normalize(integrate(geo_out["normal"]), dim=-1)
            images["comp_normal"] = (normal + 1.0) / 2.0 * opacity
        out = {name: image.reshape(*batch_shape, -1) for name, image in images.items()}
        if self.training:
            out |= {
                "weights": weights[:, None],
                "t_points": t_points,
                "t_intervals": t_intervals,
                "t_dirs": t_dirs,
                "ray_indices": ray_indices,
                "points": points,
                **geo_out,
            }
        return out

    def _sample(self, origins: Float[Tensor, "N 3"], dirs: Float[Tensor, "N 3"]) -> Samples:
        """Where to evaluate: sorted ray indices, starts and ends; never empty."""

        def sigma_fn(t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor) -> Tensor:
            middles = ((t_starts + t_ends) / 2.0)[:, None]
            points = origins[ray_indices] + dirs[ray_indices] * middles
            chunk = 0 if self.training else self.cfg.eval_chunk_size
            return chunk_batch(self.geometry.forward_density, chunk, points)[..., 0]

        prune = self.cfg.grid_prune and self.cfg.prune_alpha_threshold
        options = {
            "sigma_fn": sigma_fn if prune else None,
            "near_plane": self.cfg.near_plane,
            "far_plane": self.cfg.far_plane,
            "render_step_size": self.render_step_size,
            "alpha_thre": _PRUNE_ALPHA if prune else 0.0,
            "stratified": self.randomized,
        }
        if self._use_kernels(origins):
            with torch.no_grad():
                samples = self.estimator.sampling(origins, dirs, cone_angle=0.0, **options)
        else:
            samples = sample_rays(self.estimator, origins, dirs, **options)
        ray_indices, t_starts, t_ends = samples
        if not len(ray_indices):  # one sample of zero length: what follows need not branch
            if not self.estimator.binaries.any():  # else these rays, of a part perhaps, miss it
                threestudio.warn("The occupancy grid is empty: the image is background only.")
            ray_indices = ray_indices.new_zeros(1)
            t_starts, t_ends = t_starts.new_zeros(1), t_ends.new_zeros(1)
        return ray_indices.long(), t_starts, t_ends

    def _evaluate(
        self,
        points: Float[Tensor, "M 3"],
        dirs: Float[Tensor, "M 3"],
        light_positions: Float[Tensor, "M 3"],
        extra: dict[str, Any],
    ) -> tuple[dict[str, Tensor], Float[Tensor, "M C"]]:
        """The geometry's outputs and the material's colours at the samples."""
        with_normal = self.material.requires_normal
        seen = {"viewdirs": dirs, "positions": points, "light_positions": light_positions}
        if self.training:
            geo_out = self.geometry(points, output_normal=with_normal)
            return geo_out, self.material(**seen, **geo_out, **extra)
        chunk = self.cfg.eval_chunk_size
        geo_out = chunk_batch(self.geometry, chunk, points, output_normal=with_normal)
        return geo_out, chunk_batch(self.material, chunk, **seen, **geo_out)

    def _flat_background(
        self, bg_color: Tensor | None, comp_rgb_bg: Tensor, batch_shape: torch.Size
    ) -> Tensor:
        """Background colours that broadcast to [B*H*W C]."""
        color = comp_rgb_bg if bg_color is None else bg_color
        if color.ndim == 2 and color.shape[0] == batch_shape[0]:
            color = color[:, None, None, :].expand(*batch_shape, -1)
        if color.ndim == 4:
            color = color.reshape(-1, color.shape[-1])
        return color

    def _use_kernels(self, rays: Tensor) -> bool:
        use = rays.is_cuda and nerfacc_kernels_available()
        if use != self._announced_kernels:
            self._announced_kernels = use
            way = "nerfacc's CUDA functions" if use else f"PyTorch ({rays.device.type})"
            threestudio.info(f"nerf-volume-renderer marches and composites rays with {way}.")
        return use

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        if not self.cfg.grid_prune or not self.training or on_load_weights:
            return

        def opacity_of_a_step(x: Float[Tensor, "n 3"]) -> Float[Tensor, "n 1"]:
            # 1 - exp(-density step), to first order
            return self.geometry.forward_density(x) * self.render_step_size

        self.estimator.update_every_n_steps(step=global_step, occ_eval_fn=opacity_of_a_step)

    @property
    def randomized(self) -> bool:
        """Whether rays are shifted now. No state: Lightning restores modes without `train()`."""
        return self.training and self.cfg.randomized
