"""From a field on a grid to a mesh."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.models.mesh import Mesh


class MarchingCubeCPUHelper(nn.Module):
    """Marching cubes on a cubic grid, on the CPU; the mesh is not differentiable.

    Args:
        resolution: grid points along each axis.
    """

    points_range: tuple[float, float] = (0, 1)

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self._grid_vertices: Float[Tensor, "N 3"] | None = None
        self.register_buffer("_dummy", torch.zeros(0), persistent=False)  # where the mesh goes

    @property
    def grid_vertices(self) -> Float[Tensor, "N 3"]:
        """All grid points, z fastest. They stay on the CPU, so that fine grids fit."""
        if self._grid_vertices is None:
            axis = torch.linspace(*self.points_range, self.resolution)
            self._grid_vertices = torch.cartesian_prod(axis, axis, axis)
        return self._grid_vertices

    def forward(self, level: Float[Tensor, "N 1"]) -> Mesh:
        """The surface level = 0, in `points_range`; `level` is negative inside, as a distance is.

        Without a surface the mesh is empty.

        Raises:
            ValueError: if `level` is not finite.
        """
        volume = -level.detach().float().cpu().view((self.resolution,) * 3)
        lowest, highest = volume.min().item(), volume.max().item()
        if not (abs(lowest) < float("inf") and abs(highest) < float("inf")):
            raise ValueError(
                "The geometry's field has values that are not finite, so it has no surface: the "
                "training diverged. Export an earlier checkpoint."
            )
        device = self._dummy.device
        if not lowest < 0 < highest:
            return Mesh(
                torch.zeros(0, 3, device=device),
                torch.zeros(0, 3, dtype=torch.long, device=device),
            )
        from skimage.measure import marching_cubes

        v_pos, t_pos_idx, _, _ = marching_cubes(
            volume.numpy(), 0.0, gradient_direction="ascent", allow_degenerate=False
        )
        return Mesh(
            torch.from_numpy(v_pos.copy()).float().to(device) / (self.resolution - 1.0),
            torch.from_numpy(t_pos_idx.copy()).long().to(device),
        )
