"""Renders some rows of pixels of all views at a time, so that no more than their graph is held.

Deferred back-propagation (ARF, Zhang et al. 2022, arXiv 2206.06360): everything is rendered without
a graph, the losses give their gradient in the pictures, and each part is rendered once more, with a
graph, to take its share of that gradient to the parameters.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..priors.free_memory import free_memory

USABLE = 0.55  # of the free memory for a graph; the backward pass and fragments take the rest
FIRST = 16384  # rays at once, before it is known how much they take
OF_SAMPLES = ("normal", "t_dirs", "weights")  # along rays, [M ...], for the losses
SAMPLES = ("ray_indices", "t_points", "t_intervals")  # where a renderer looked, if it says so
PICTURES = ("comp_rgb", "opacity", "z_variance", "comp_normal")  # [B H W C]


def render_in_chunks(
    renderer: Callable[..., Mapping[str, Any]],
    background: Callable[..., Tensor],
    parameters: Sequence[Tensor],
    batch: Mapping[str, Any],
    n_rays: int,
    measured: Callable[[int, int], None] = lambda n_bytes, n_rays: None,
) -> dict[str, Any]:
    """What `renderer(**batch)` returns; of several parts, `PICTURES`, `OF_SAMPLES`, `comp_rgb_bg`.

    The background is drawn once, and every part gets the same of Python's random numbers: one
    colour and one shading for all views, as in one piece. A renderer that says where it sampled the
    rays is told it the second time, as `samples`, and need not find it out again.

    Args:
        parameters: that get gradients.
        n_rays: of a part at most, which has one row of every view at least; 0: all in one.
        measured: is told how many bytes on a GPU the graph of how many rays holds.

    Raises:
        ValueError: the renderer does not render the rays that it is given.
    """
    count, height, width = batch["rays_d"].shape[:3]
    n_parts = math.ceil(height / max(1, n_rays // (count * width))) if n_rays else 1

    def with_measure(rays_d: Tensor, **batch: Any) -> Mapping[str, Any]:
        if not (rays_d.is_cuda and torch.is_grad_enabled()):
            return renderer(rays_d=rays_d, **batch)
        before = torch.cuda.memory_allocated(rays_d.device)
        out = renderer(rays_d=rays_d, **batch)
        measured(torch.cuda.memory_allocated(rays_d.device) - before, rays_d[..., 0].numel())
        return out

    if n_parts == 1:
        return dict(with_measure(**batch))
    behind = background(dirs=batch["rays_d"])
    seeds = torch.randint(2**62, (n_parts,)).tolist()
    drawn = random.getstate()
    names: list[str] = []
    marched: dict[int, dict[str, Tensor]] = {}  # of a part: its samples, for the second time

    def render(rows: slice, behind: Tensor) -> tuple[Tensor, ...]:
        """The same again at every call."""
        random.setstate(drawn)
        rays = {key: batch[key][:, rows] for key in ("rays_o", "rays_d")}
        rays["samples"] = marched.pop(rows.start, None)
        with torch.random.fork_rng([behind.device] if behind.is_cuda else []):
            torch.manual_seed(seeds[rows.start])
            out = with_measure(**{**batch, **rays, "bg_color": behind})
        if out["comp_rgb"].shape[:3] != behind.shape[:3]:
            raise ValueError(
                f"system.render_chunk={n_rays} is for nerf-volume-renderer: "
                f"{type(renderer).__name__} renders whole pictures, so set it to 0."
            )
        if out.keys() >= set(SAMPLES) and not torch.is_grad_enabled():
            marched[rows.start] = {name: out[name] for name in SAMPLES}
        names[:] = [name for name in (*PICTURES, *OF_SAMPLES) if name in out]
        return tuple(out[name] for name in names)

    rows = [slice(first, None, n_parts) for first in range(n_parts)]  # each from top to bottom
    parts = [Deferred.apply(partial(render, part), behind[:, part], *parameters) for part in rows]
    order = torch.cat([torch.arange(height, device=behind.device)[part] for part in rows]).argsort()
    out = {"comp_rgb_bg": behind}
    for name, values in zip(names, zip(*parts, strict=True), strict=True):
        picture = name in PICTURES
        out[name] = torch.cat(values, dim=1)[:, order] if picture else torch.cat(values)
    return out


class RaysThatFit:
    """How many rays to render at once: as many as the free memory holds the graph of.

    What one takes depends on the scene, and is known from the rays before.
    """

    def __init__(self) -> None:
        self.bytes_per_ray = 0.0

    def note(self, n_bytes: int, n_rays: int) -> None:
        self.bytes_per_ray = n_bytes / n_rays

    def __call__(self, rays_d: Float[Tensor, "B H W 3"]) -> int:
        """0 for all of them at once: on a CPU, and where they take little."""
        n_rays = rays_d[..., 0].numel()
        if not rays_d.is_cuda:
            return 0
        if self.bytes_per_ray == 0:
            return min(n_rays // 2, FIRST)
        fit = USABLE * free_memory(rays_d.device) / self.bytes_per_ray
        return 0 if n_rays <= fit else max(1, int(fit))


class Deferred(torch.autograd.Function):
    """`function(x)` without a graph, which the backward pass computes again with one.

    Gradients of the parameters are returned and not accumulated on the way, as a reentrant
    `torch.utils.checkpoint` would: DistributedDataParallel takes each of them once.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda")
    def forward(ctx, function: Callable, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *parameters)
        return function(x)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            out = ctx.function(x)
        pairs = zip(out, grads, strict=True)
        known = [(y, grad) for y, grad in pairs if grad is not None and y.requires_grad]
        outputs, grads = zip(*known, strict=True)
        return None, *torch.autograd.grad(outputs, [x, *parameters], grads, allow_unused=True)
