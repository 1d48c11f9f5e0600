"""Ray marching through nerfacc's occupancy grid and compositing, in PyTorch alone.

nerfacc's packed functions exist in CUDA only. These give the same samples and weights anywhere: the
march is a look-up at every step, the compositing goes through nerfacc's batched functions.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import nerfacc
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import threestudio

CUDA_SWITCH = "JOINTDREAMER_NERFACC_CUDA"
_EARLY_STOP_TRANSMITTANCE = 1e-4  # nerfacc's default
_CPU_STEPS_AT_ONCE = 2**18
_CUDA_STEPS_AT_ONCE = 2**24
_NO_DIRECTION = 1e-12

Samples = tuple[Int[Tensor, "M"], Float[Tensor, "M"], Float[Tensor, "M"]]


@cache
def nerfacc_kernels_available() -> bool:
    """Whether nerfacc's CUDA functions can be called; starts no build that was not asked for.

    They can if they were installed compiled, if an earlier build left them in torch's extension
    folder, or if the environment says JOINTDREAMER_NERFACC_CUDA=1, which builds them (a minute or
    two, needs nvcc). JOINTDREAMER_NERFACC_CUDA=0 forbids them.
    """
    switch = os.environ.get(CUDA_SWITCH, "")
    if switch == "0" or not torch.cuda.is_available():
        return False
    if switch != "1" and not _kernels_built():
        return False
    try:
        from nerfacc.cuda._backend import _C
    except Exception as error:  # a failed build may raise anything
        threestudio.warn(f"nerfacc's CUDA extension does not load ({error}): not used.")
        return False
    return _C is not None


def _kernels_built() -> bool:
    if importlib.util.find_spec("nerfacc.csrc") is not None:
        return True
    if shutil.which("nvcc") is None or shutil.which("ninja") is None:
        return False  # nerfacc only loads what it could also build
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    return any(root.glob("**/nerfacc_cuda/nerfacc_cuda.so"))


@torch.no_grad()
def sample_rays(
    estimator: nerfacc.OccGridEstimator,
    rays_o: Float[Tensor, "N 3"],
    rays_d: Float[Tensor, "N 3"],
    sigma_fn: Callable[[Tensor, Tensor, Tensor], Float[Tensor, "M"]] | None,
    near_plane: float,
    far_plane: float,
    render_step_size: float,
    alpha_thre: float,
    stratified: bool,
    early_stop_eps: float = _EARLY_STOP_TRANSMITTANCE,
) -> Samples:
    """`OccGridEstimator.sampling` on any device.

    Steps of `render_step_size` from the near plane on (shifted by up to one step a ray if
    `stratified`) become samples where their middle lies in an occupied cell. With `sigma_fn`, those
    of opacity below min(alpha_thre, mean occupancy) or behind a transmittance of `early_stop_eps`
    are dropped.

    Args:
        rays_d: unit vectors.
        sigma_fn: (t_starts, t_ends, ray_indices) -> densities.

    Returns:
        ray_indices (sorted), t_starts, t_ends of the samples.
    """
    ray_indices, t_starts = _march(
        estimator, rays_o, rays_d, near_plane, far_plane, render_step_size, stratified
    )
    t_ends = t_starts + render_step_size
    if sigma_fn is not None and (alpha_thre > 0 or early_stop_eps > 0) and len(ray_indices):
        sigmas = sigma_fn(t_starts, t_ends, ray_indices)
        dense = _Dense(ray_indices)
        visible = nerfacc.render_visibility_from_density(
            dense.spread(t_starts),
            dense.spread(t_ends),
            dense.spread(sigmas),
            early_stop_eps=early_stop_eps,
            alpha_thre=min(alpha_thre, float(estimator.occs.mean())),
        )
        kept = dense.collect(visible).nonzero()[:, 0]  # once: it waits for a GPU
        ray_indices, t_starts, t_ends = ray_indices[kept], t_starts[kept], t_ends[kept]
    return ray_indices, t_starts, t_ends


def render_weights(
    t_starts: Float[Tensor, "M"],
    t_ends: Float[Tensor, "M"],
    sigmas: Float[Tensor, "M"],
    ray_indices: Int[Tensor, "M"],
) -> Float[Tensor, "M"]:
    """w_i = T_i (1 - exp(-sigma_i delta_i)), T_i = exp(-sum_{j<i} sigma_j delta_j) along each ray.

    nerfacc's batched `render_weight_from_density` on a table with one row a ray that has samples.

    Args:
        ray_indices: sorted; samples of one ray are in order.
    """
    dense = _Dense(ray_indices)
    weights, _, _ = nerfacc.render_weight_from_density(
        dense.spread(t_starts), dense.spread(t_ends), dense.spread(sigmas)
    )
    return dense.collect(weights)


class _Dense:
    """Moves packed samples to a [rays with samples, most samples of a ray] table and back."""

    def __init__(self, ray_indices: Int[Tensor, "M"]) -> None:
        _, rows, counts = torch.unique_consecutive(
            ray_indices, return_inverse=True, return_counts=True
        )
        starts = counts.cumsum(0) - counts
        columns = torch.arange(len(rows), device=rows.device) - starts[rows]
        self.shape = (len(counts), int(counts.max()) if len(counts) else 0)
        self.flat = rows * self.shape[1] + columns

    def spread(self, values: Float[Tensor, "M"]) -> Float[Tensor, "R K"]:
        """The table, 0 where a ray has fewer samples; differentiable."""
        table = values.new_zeros(self.shape[0] * self.shape[1])
        return table.scatter(0, self.flat, values).view(self.shape)

    def collect(self, table: Tensor) -> Tensor:
        return table.reshape(-1)[self.flat]


def _march(
    estimator: nerfacc.OccGridEstimator,
    rays_o: Float[Tensor, "N 3"],
    rays_d: Float[Tensor, "N 3"],
    near_plane: float,
    far_plane: float,
    step: float,
    stratified: bool,
) -> tuple[Int[Tensor, "M"], Float[Tensor, "M"]]:
    """Sorted ray indices and starts of the steps whose middle lies in an occupied cell."""
    near = torch.full_like(rays_o[:, 0], near_plane)
    if stratified:
        near += torch.rand_like(near) * step
    box = estimator.aabbs[0].view(2, 3)
    enter, leave = _box_overlap(rays_o, rays_d, _occupied_box(estimator, step))
    enter = torch.maximum(enter, near)
    leave = leave.clamp(max=far_plane)
    # step k has its middle at near + (k + 1/2) step
    first = ((enter - near) / step - 0.5).ceil().clamp_min(0)
    n_steps = (((leave - near) / step - 0.5).ceil() - first).clamp_min(0)
    crossing = (n_steps > 0).nonzero()[:, 0]
    near, first, n_steps = near[crossing], first[crossing], n_steps[crossing]
    if not len(crossing):
        return crossing, near

    occupied = estimator.binaries[0]
    cells = torch.tensor(occupied.shape, dtype=rays_o.dtype, device=rays_o.device)
    origins = (rays_o[crossing] - box[0]) / (box[1] - box[0]) * cells
    directions = rays_d[crossing] / (box[1] - box[0]) * cells
    table = None
    if not stratified:
        count = -(-int((first + n_steps).max()) // 256) * 256  # few counts, so that few are made
        table = _starts(near_plane, step, count, rays_o.device).to(rays_o.dtype)

    rays_found, starts_found = [], []
    at_once = _CPU_STEPS_AT_ONCE if rays_o.device.type == "cpu" else _CUDA_STEPS_AT_ONCE
    rays_at_once = max(at_once // int(n_steps.max()), 1)
    for rows in torch.arange(len(crossing), device=rays_o.device).split(rays_at_once):
        steps = torch.arange(int(n_steps[rows].max()), device=rays_o.device)
        number = first[rows, None] + steps
        if table is None:
            starts = near[rows, None] + number * step
        else:
            starts = table[number.long().clamp_(max=len(table) - 1)]  # past a ray's end: not kept
        hit = _look_up(occupied, origins[rows], directions[rows], starts + 0.5 * step)
        hit &= steps < n_steps[rows, None]
        row, column = hit.nonzero(as_tuple=True)
        rays_found.append(crossing[rows[row]])
        starts_found.append(starts[row, column])
    return torch.cat(rays_found), torch.cat(starts_found)


@lru_cache(maxsize=16)
def _starts(near_plane: float, step: float, count: int, device: torch.device) -> Float[Tensor, "K"]:
    """Where `count` steps from one near plane, and the one after them, start.

    nerfacc adds up step after step. After hundreds of them that is 1e-5 from the product, enough to
    move a sample into the next of a large grid's finest cells.
    """
    increments = np.full(count + 1, step, dtype=np.float32)
    increments[0] = near_plane
    return torch.from_numpy(np.add.accumulate(increments, dtype=np.float32)).to(device)


def _occupied_box(estimator: nerfacc.OccGridEstimator, margin: float) -> Float[Tensor, "2 3"]:
    """Around all occupied cells, `margin` wider, within the estimator's box; waits for no GPU."""
    box = estimator.aabbs[0].view(2, 3)
    occupied, sides = estimator.binaries[0], []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        along = occupied.any(dim=others[1]).any(dim=others[0]).float()
        side = torch.stack([along.argmax(), len(along) - along.flip(0).argmax()])
        sides.append(side / len(along))
    found = box[0] + torch.stack(sides, dim=1) * (box[1] - box[0])
    return torch.stack([(found[0] - margin).maximum(box[0]), (found[1] + margin).minimum(box[1])])


def _box_overlap(
    rays_o: Float[Tensor, "N 3"], rays_d: Float[Tensor, "N 3"], box: Float[Tensor, "2 3"]
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """Distances at which rays enter and leave the box; enter > leave if they miss it."""
    parallel = rays_d.abs() < _NO_DIRECTION
    inverse = 1 / torch.where(parallel, torch.full_like(rays_d, _NO_DIRECTION), rays_d)
    to_low, to_high = (box[0] - rays_o) * inverse, (box[1] - rays_o) * inverse
    enter = torch.minimum(to_low, to_high).amax(dim=-1)
    leave = torch.maximum(to_low, to_high).amin(dim=-1)
    return enter, leave


def _look_up(
    occupied: Bool[Tensor, "X Y Z"],
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    t: Float[Tensor, "n K"],
) -> Bool[Tensor, "n K"]:
    """Whether the points at distances t lie in occupied cells; rays in units of cells."""
    index = torch.zeros_like(t, dtype=torch.int32)
    for axis, size in enumerate(occupied.shape):
        position = torch.addcmul(origins[:, axis, None], directions[:, axis, None], t)
        index = index * size + position.to(torch.int32).clamp_(0, size - 1)
    return occupied.reshape(-1).index_select(0, index.view(-1)).view(t.shape)
