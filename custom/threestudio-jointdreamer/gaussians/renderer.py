"""`jointdreamer-gaussian-renderer`: pictures of `jointdreamer-gaussians`."""

from dataclasses import dataclass
from typing import Annotated, Any

import threestudio
import torch
from jaxtyping import Float
from threestudio.models.renderers.base import Renderer
from torch import Tensor

from ..config_values import parse_fields
from .rasterizer import rasterize, why_no_gsplat


@threestudio.register("jointdreamer-gaussian-renderer")
class GaussianRenderer(Renderer):
    """Rasterises, with gsplat on a GPU where it works, else in PyTorch; colours are unshaded.

    Raises:
        ValueError: another geometry, or a material that shades; when called, no gsplat.
    """

    @dataclass
    class Config(Renderer.Config):
        backend: Annotated[str, ("auto", "gsplat", "torch")] = "auto"

        def __post_init__(self) -> None:
            parse_fields(self, "system.renderer")

    cfg: Config

    def configure(self, geometry: Any, material: Any, background: Any) -> None:
        super().configure(geometry, material, background)
        if not hasattr(geometry, "gaussians") or material.requires_normal:
            raise ValueError(
                "system.renderer_type=jointdreamer-gaussian-renderer draws coloured Gaussians: set "
                "system.geometry_type=jointdreamer-gaussians and system.material_type=no-material."
            )
        if self.cfg.backend == "auto" and (reason := why_no_gsplat(geometry.device)):
            threestudio.info(f"Gaussians are drawn in PyTorch: {reason}.")

    def forward(
        self,
        rays_d: Float[Tensor, "B H W 3"],
        c2w: Float[Tensor, "B 4 4"],
        fovy: Float[Tensor, "B"],
        height: int,
        width: int,
        bg_color: Tensor | None = None,
        **batch: Any,
    ) -> dict[str, Float[Tensor, "B H W C"]]:
        """Renders views of cameras that look along -z with y up (OpenGL); `fovy` in radians.

        Returns:
            comp_rgb, comp_rgb_fg (without the background), comp_rgb_bg, opacity, depth (distance
            from the camera, not divided by the opacity) and z_variance, that distance's variance.
        """
        if rays_d.shape[1:3] != (height, width):
            raise ValueError("system.render_chunk is for nerf-volume-renderer: set it to 0.")
        gaussians, backend = self.geometry.gaussians(), self.cfg.backend
        reason = "" if backend == "torch" else why_no_gsplat(gaussians.positions.device)
        if reason and backend == "gsplat":
            raise ValueError(f"system.renderer.backend=gsplat: {reason}; or set it to torch.")
        w2c = torch.linalg.inv(c2w * c2w.new_tensor([1.0, -1.0, -1.0, 1.0]))
        intrinsics = torch.diag_embed(c2w.new_tensor([1.0, 1.0, 0.0]) * height / 2)
        intrinsics = intrinsics / torch.tan(fovy / 2)[:, None, None]
        intrinsics[:, :, 2] = c2w.new_tensor([width / 2, height / 2, 1.0])
        distances = (gaussians.positions - c2w[:, None, :3, 3]).norm(dim=-1, keepdim=True)
        rgb = self.geometry.rgb().expand(len(c2w), -1, -1)
        features = torch.cat([rgb, distances, distances**2], dim=-1)
        view = (w2c, intrinsics, width, height)
        images, opacity = rasterize(gaussians, features, *view, use_gsplat=reason is None)
        color, depth, squares = images.split([3, 1, 1], dim=-1)
        background = self.background(dirs=rays_d)
        seen = opacity.clamp(min=1e-5)
        return {
            "comp_rgb": color + (background if bg_color is None else bg_color) * (1 - opacity),
            "comp_rgb_fg": color,
            "comp_rgb_bg": background,
            "opacity": opacity,
            "depth": depth,
            "z_variance": (squares / seen - (depth / seen) ** 2) * (opacity > 0.5),
        }
