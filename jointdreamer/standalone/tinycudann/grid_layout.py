"""Where each vertex of each level of a multi-resolution hash grid lies in the parameter vector.

The rules are tiny-cuda-nn's (Müller et al. 2022, "Instant Neural Graphics Primitives", section 3
and appendix A), so that a parameter vector means the same function in both packages:

- level l has scale s_l = 2^(l log2 b) N_min - 1 and r_l = ceil(s_l) + 1 vertices along each axis;
  a point x in [0, 1]^3 lies at x s_l + 0.5, in the cell floor(x s_l + 0.5). On a GPU, tiny-cuda-nn
  takes the power of two from the GPU's own approximation (`GridLayout.on`).
- it owns min(r_l^3 rounded up to a multiple of 8, 2^log2_hashmap_size) entries of
  `n_features_per_level` numbers.
- where those entries hold every vertex, vertex (i_0, i_1, i_2) is entry i_0 + i_1 r_l + i_2 r_l^2
  (modulo the number of entries: the outermost half cell wraps around); otherwise it is the
  exclusive or of i_d p_d with the primes p below, modulo the number of entries. All in unsigned
  32 bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

HASH_PRIMES = (1, 2654435761, 805459861)
_ENTRY_MULTIPLE = 8


@dataclass(frozen=True)
class GridLevel:
    """One resolution level. `offset` and `n_entries` count entries, not single numbers."""

    scale: float
    resolution: int
    offset: int
    n_entries: int
    hashed: bool

    @property
    def strides(self) -> tuple[int, int, int]:
        """What a vertex's coordinates are multiplied by."""
        return HASH_PRIMES if self.hashed else (1, self.resolution, self.resolution**2)

    def position(self, points: Tensor) -> Tensor:
        """x s + 0.5 with one rounding, as tiny-cuda-nn's fused multiply-add has it.

        At the finest level of a large grid a second rounding is 2.4e-4 of a cell.
        """
        half = torch.full((), 0.5, dtype=points.dtype, device=points.device)
        return torch.add(half, points, alpha=self.scale)


@dataclass(frozen=True)
class GridLayout:
    """All levels of a grid over [0, 1]^3."""

    n_features_per_level: int
    base_resolution: int
    log2_growth: float
    levels: tuple[GridLevel, ...]

    def on(self, device: torch.device) -> "GridLayout":
        """The layout with the scales that tiny-cuda-nn has on this device, for its points.

        A GPU's exp2f is within a unit in the last place of the CPU's: 2.4e-4 of a cell at scale
        4095. The product and the difference are one fused operation there. Where entries are
        stored does not depend on it. Waits for the GPU once for each layout.
        """
        return self if device.type != "cuda" else _on_gpu(self, device)

    @property
    def n_params(self) -> int:
        last = self.levels[-1]
        return (last.offset + last.n_entries) * self.n_features_per_level

    @property
    def n_output_dims(self) -> int:
        return len(self.levels) * self.n_features_per_level

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "GridLayout":
        """Read a tiny-cuda-nn grid configuration.

        Raises:
            ValueError: a value that tiny-cuda-nn does not know, or a type or interpolation other
                than the one implemented here.
        """
        for key, only in {"type": "Hash", "interpolation": "Linear"}.items():
            if str(config.get(key, only)).lower() != only.lower():
                raise ValueError(
                    f"Encoding {key}={config[key]!r} is not available in the PyTorch grid: use "
                    f"{key}: {only}."
                )
        n_features = int(config.get("n_features_per_level", 2))
        if n_features not in (1, 2, 4, 8):
            raise ValueError(
                f"Encoding n_features_per_level={n_features} is not possible: use 1, 2, 4 or 8."
            )
        n_levels = int(config.get("n_levels", 16))
        base_resolution = int(config.get("base_resolution", 16))
        if n_levels < 1 or base_resolution < 1:
            raise ValueError(
                f"Encoding n_levels={n_levels}, base_resolution={base_resolution}: both must be "
                "at least 1."
            )
        limit = 2 ** int(config.get("log2_hashmap_size", 19))

        levels: list[GridLevel] = []
        offset = 0
        # Single precision throughout: whether a level has 32 or 33 vertices may hang on rounding.
        log2_growth = np.log2(np.float32(config.get("per_level_scale", 2.0)))
        for index in range(n_levels):
            scale = np.exp2(np.float32(index) * log2_growth) * np.float32(base_resolution)
            scale = np.float32(scale) - np.float32(1.0)
            resolution = int(np.ceil(scale)) + 1
            n_vertices = resolution**3
            n_entries = min(-(-n_vertices // _ENTRY_MULTIPLE) * _ENTRY_MULTIPLE, limit)
            hashed = n_entries < n_vertices
            levels.append(GridLevel(float(scale), resolution, offset, n_entries, hashed))
            offset += n_entries
        return cls(n_features, base_resolution, float(log2_growth), tuple(levels))


@cache
def _on_gpu(layout: GridLayout, device: torch.device) -> GridLayout:
    index = torch.arange(len(layout.levels), dtype=torch.float32, device=device)
    powers = torch.exp2(index * layout.log2_growth).double().cpu()
    scales = (powers * layout.base_resolution - 1).float().tolist()
    levels = zip(layout.levels, scales, strict=True)
    return replace(layout, levels=tuple(replace(level, scale=scale) for level, scale in levels))
