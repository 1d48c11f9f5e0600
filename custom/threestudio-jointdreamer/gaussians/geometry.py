"""`jointdreamer-gaussians`: the asset as 3D Gaussians, for `jointdreamer-gaussian-renderer`."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

import threestudio
import torch
from jaxtyping import Float
from threestudio.models.geometry.base import BaseGeometry
from threestudio.utils.config import parse_structured
from torch import Tensor, nn
from torch.optim import Optimizer

from ..config_values import parse_fields
from . import starts
from .densification import DEAD, forget, split, walk
from .rasterizer import Gaussians

WIDTHS = {"positions": 3, "log_scales": 3, "rotations": 4, "opacities": 1, "colors": 3}


@threestudio.register("jointdreamer-gaussians")
class GaussianGeometry(BaseGeometry):
    """Gaussians whose colours are the same from everywhere.

    Each of `WIDTHS` is a parameter [capacity width], which `system.optimizer.params` may name,
    such as `geometry.positions`. Rotations are quaternions (w, x, y, z); opacities and colours go
    through a sigmoid. The first `count` rows are in use, 5 % more after each densification.

    Raises:
        ValueError: for a start that cannot be read, or with more Gaussians than `capacity`.
    """

    @dataclass
    class Config(BaseGeometry.Config):
        capacity: Annotated[int, "[4, inf)"] = 100_000
        init: Annotated[str, re.compile(r"ball|.+\.ply")] = "ball"  # or a file
        n_init: Annotated[int, "[4, inf)"] = 4096  # in the ball, or on another run's surface
        init_radius: Annotated[float, "(0, inf)"] = 0.5  # of the ball, world units
        init_opacity: Annotated[float, "(0, 1)"] = 0.1  # where the file has none
        densify_from_iter: Annotated[int, "[0, inf)"] = 500
        densify_until_iter: Annotated[int, "[0, inf)"] = 25_000
        densification_interval: Annotated[int, "[1, inf)"] = 100
        noise_lr: Annotated[float, "[0, inf)"] = 5e5  # of the random walk, in the positions' rates

        def __post_init__(self) -> None:
            parse_fields(self, "system.geometry")

    cfg: Config

    def configure(self, start: starts.Columns | None = None) -> None:
        if start is None and self.cfg.init == "ball":
            start = starts.ball(self.cfg.n_init, self.cfg.init_radius)
        elif start is None:
            start = starts.ply(self.cfg.init, "system.geometry.init")
        n = len(start["positions"])
        if n > self.cfg.capacity:
            key = f"system.geometry.capacity={self.cfg.capacity}"
            raise ValueError(f"{key} is too small: the run starts with {n} Gaussians.")
        self.register_buffer("count", torch.tensor(n))
        start = {"opacities": torch.tensor(self.cfg.init_opacity).logit(), **start}
        start["colors"] = start.pop("rgb", torch.tensor(0.5)).clamp(1e-4, 1 - 1e-4).logit()
        for name, width in WIDTHS.items():
            value = torch.zeros(self.cfg.capacity, width)
            value[:n] = start[name]
            setattr(self, name, nn.Parameter(value))

    @staticmethod
    def create_from(other: Any, cfg: Any = None, copy_net: bool = True) -> "GaussianGeometry":
        """On the surface of another run's geometry, with `copy_net` in its colours, else gray."""
        n = parse_structured(GaussianGeometry.Config, cfg).n_init
        return GaussianGeometry(cfg, starts.on_surface(other, n, copy_net))

    def gaussians(self) -> Gaussians:
        """Those in use."""
        n = int(self.count)
        scales, opacities = self.log_scales[:n].exp(), self.opacities[:n, 0].sigmoid()
        return Gaussians(self.positions[:n], scales, self.rotations[:n], opacities)

    def rgb(self) -> Float[Tensor, "N 3"]:
        """Their colours, in 0..1."""
        return self.colors[: int(self.count)].sigmoid()

    def isosurface(self) -> Any:
        key = "system.exporter_type=jointdreamer-gaussian-exporter"
        raise ValueError(f"Gaussians have no surface to make a mesh of: set {key}.")

    @torch.no_grad()
    def after_optimizer_step(self, optimizer: Optimizer, step: int) -> None:
        """Densifies, and takes a step of the random walk, by random numbers of the step alone."""
        generator = torch.Generator(self.positions.device).manual_seed(step)
        window = range(self.cfg.densify_from_iter, self.cfg.densify_until_iter)
        if step in window and step % self.cfg.densification_interval == 0:
            self._densify(optimizer, generator)
        steps = walk(self.gaussians(), generator) * self.cfg.noise_lr
        for group in optimizer.param_groups:
            if any(parameter is self.positions for parameter in group["params"]):
                self.positions[: len(steps)] += steps * group["lr"]

    def _densify(self, optimizer: Optimizer, generator: torch.Generator) -> None:
        """Puts dead Gaussians, and some that were not in use, onto live ones, by opacity."""
        opacity = self.opacities[:, 0].sigmoid()
        row = torch.arange(len(opacity), device=opacity.device)
        live = (row < self.count) & (opacity > DEAD)
        self.count.copy_((self.count + self.count // 20).clamp(max=len(row)))
        free = row[(row < self.count) & ~live]
        if len(free) == 0 or not live.any():
            return
        source = torch.multinomial(opacity * live, len(free), True, generator=generator)
        copies = 1 + torch.bincount(source, minlength=len(row))
        moved = copies > 1
        new, factor = split(opacity[moved], copies[moved])
        self.opacities[moved] = new.clamp(DEAD, 0.9999).logit()[:, None]
        self.log_scales[moved] += factor.log()[:, None]
        moved[free] = True
        for parameter in (getattr(self, name) for name in WIDTHS):
            parameter[free] = parameter[source]
            forget(optimizer, parameter, moved)
