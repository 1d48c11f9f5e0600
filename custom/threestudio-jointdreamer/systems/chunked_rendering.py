"""Renders some rows of pixels of all views at a time, so that no more than their graph is held.

Deferred back-propagation (ARF, Zhang et al. 2022, arXiv 2206.06360): everything is rendered without
a graph, the losses give their gradient in the pictures, and each part is rendered once more, with a
graph, to take its share of that gradient to the parameters.
"""

import inspect
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..priors.free_memory import free_memory

T = TypeVar("T")

# Of the free memory, as the graph of what may be rendered at once: with a graph, to which its
# backward pass adds a third; all rays, whose graph is held while the guidance works; and without a
# graph, at first, which takes about half of it. These are guesses, as a step's cameras may see 1.6
# times the samples of the step before: what does not fit is divided, and tried again.
USABLE, HELD, WITHOUT = 0.6, 0.5, 1.0
FIRST = 16384  # rays at once, before it is known how much they take
FIRST_BYTES = 2048  # of a sample, for the first graph
OF_SAMPLES = ("normal", "t_dirs", "weights")  # along rays, [M ...], for the losses
SAMPLES = ("ray_indices", "t_points", "t_intervals")  # where a renderer looked, if it says so
PICTURES = ("comp_rgb", "opacity", "z_variance", "comp_normal")  # [B H W C]


def takes_samples(renderer: Callable[..., Mapping[str, Any]]) -> bool:
    """Whether it can be told, as `samples`, where to look along rays; else it finds out again."""
    forward = getattr(type(renderer), "forward", renderer)
    return "samples" in inspect.signature(forward).parameters


class Fitting:
    """How much to render at once: as much as the free memory holds the graph of.

    What a sample takes, and how many a ray has, is known from the steps before.
    """

    def __init__(self, held: float = HELD) -> None:
        self.bytes_per_sample = self.samples_per_ray = 0.0
        self.held, self.without = held, WITHOUT

    def note(self, n_bytes: int, n_rays: int, n_samples: int) -> None:
        """What the graph of so many takes."""
        self.bytes_per_sample = n_bytes / n_samples
        self.samples_per_ray = max(n_samples / n_rays, 0.98 * self.samples_per_ray)

    def rays(self, rays_d: Float[Tensor, "B H W 3"], renderer: Callable) -> int:
        """Of a part; 0 for all of them, with their graph: on a CPU, and where they take little."""
        n_rays = rays_d[..., 0].numel()
        if not rays_d.is_cuda:
            return 0
        if self.bytes_per_sample == 0:
            return min(n_rays // 2, FIRST)
        fit = free_memory(rays_d.device) / (self.bytes_per_sample * self.samples_per_ray)
        if n_rays <= self.held * fit:
            return 0
        share = self.without if takes_samples(renderer) else min(self.without, USABLE)
        return max(1, min(n_rays // 2, int(fit * share)))

    def pieces(self, n_samples: int, device: torch.device) -> int:
        """In how many a part with so many samples is rendered with a graph."""
        if device.type != "cuda":
            return 1
        fit = USABLE * free_memory(device) / (self.bytes_per_sample or FIRST_BYTES)
        return math.ceil(n_samples / max(1, fit))


def render_in_chunks(
    renderer: Callable[..., Mapping[str, Any]],
    background: Callable[..., Tensor],
    parameters: Sequence[Tensor],
    batch: Mapping[str, Any],
    n_rays: int,
    fitting: Fitting | None = None,
) -> dict[str, Any]:
    """What `renderer(**batch)` returns; of several parts, `PICTURES`, `OF_SAMPLES`, `comp_rgb_bg`.

    The background is drawn once, and every part gets the same of Python's random numbers: one
    colour and one shading for all views, as in one piece. A renderer that `takes_samples` is told
    the second time where it sampled the rays, and may then get them in smaller pieces.

    Args:
        parameters: that get gradients.
        n_rays: of a part at most, which has one row of every view at least; 0: all in one.
        fitting: is told what graphs take, and divides parts further.

    Raises:
        ValueError: the renderer does not render the rays that it is given.
    """
    count, height, width = batch["rays_d"].shape[:3]
    n_parts = math.ceil(height / max(1, n_rays // (count * width))) if n_rays else 1

    def noted(**batch: Any) -> Mapping[str, Any]:
        rays = batch["rays_d"]
        if fitting is None or not (rays.is_cuda and torch.is_grad_enabled()):
            return renderer(**batch)
        before = torch.cuda.memory_allocated(rays.device)
        out = renderer(**batch)
        n_bytes, n_rays = torch.cuda.memory_allocated(rays.device) - before, rays[..., 0].numel()
        fitting.note(n_bytes, n_rays, len(out["weights"]) if "weights" in out else n_rays)
        return out

    if n_parts == 1:
        try:
            return dict(noted(**batch))
        except torch.cuda.OutOfMemoryError:
            if fitting is None:
                raise
        fitting.held, n_parts = fitting.held / 2, 2  # out of the handler, which holds what failed
    behind = background(dirs=batch["rays_d"])
    drawn, told = random.getstate(), takes_samples(renderer)

    def render(rows: slice, seed: int, behind: Tensor, samples: Any = None) -> Mapping[str, Any]:
        """Rows of all views; the same again at every call."""
        random.setstate(drawn)
        part = {key: batch[key][:, rows] for key in ("rays_o", "rays_d")}
        part |= {"bg_color": behind} | ({"samples": samples} if told else {})
        with torch.random.fork_rng([behind.device] if behind.is_cuda else []):
            torch.manual_seed(seed)
            out = noted(**{**batch, **part})
        if out["comp_rgb"].shape[:3] != behind.shape[:3]:
            raise ValueError(
                f"system.render_chunk={n_rays} is for nerf-volume-renderer: "
                f"{type(renderer).__name__} renders whole pictures, so set it to 0."
            )
        return out

    seeds, pieces = torch.randint(2**62, (height,)).tolist(), fitting if told else None

    def in_parts(count: int) -> tuple[list[slice], list[Part], list[tuple[Tensor, ...]]]:
        rows = [slice(first, None, count) for first in range(count)]  # each from top to bottom
        parts = [Part(render, *own, pieces) for own in zip(rows, seeds, strict=False)]
        return rows, parts, [Deferred.apply(p, behind[:, p.rows], *parameters) for p in parts]

    rows, parts, found = divided(in_parts, n_parts, height if fitting else n_parts)
    if len(parts) > n_parts:
        fitting.without *= n_parts / len(parts)
    order = torch.cat([torch.arange(height, device=behind.device)[part] for part in rows]).argsort()
    out = {"comp_rgb_bg": behind}
    for name, values in zip(parts[0].names, zip(*found, strict=True), strict=True):
        picture = name in PICTURES
        out[name] = torch.cat(values, dim=1)[:, order] if picture else torch.cat(values)
    return out


def divided(work: Callable[[int], T], count: int, most: int) -> T:
    """`work(count)`, with twice the count for as long as it does not fit into the memory.

    Raises:
        torch.cuda.OutOfMemoryError: not even `most` parts fit.
    """
    while True:
        try:
            return work(count)
        except torch.cuda.OutOfMemoryError:
            if count >= most:
                raise
        count = min(2 * count, most)  # out of the handler, too


class Part:
    """Some rows of all views, rendered without a graph and then, in pieces of them, with one."""

    def __init__(
        self,
        render: Callable[..., Mapping[str, Any]],
        rows: slice,
        seed: int,
        fitting: Fitting | None,
    ) -> None:
        self.render, self.rows, self.seed, self.fitting = render, rows, seed, fitting
        self.names: list[str] = []
        self.samples: dict[str, Tensor] | None = None

    def first(self, behind: Float[Tensor, "B R W 3"]) -> tuple[Tensor, ...]:
        """The outputs called `names`; remembers the samples, if they will be asked for."""
        out = self.render(self.rows, self.seed, behind)
        if out.keys() >= set(SAMPLES):
            self.samples = {name: out[name] for name in SAMPLES}
        self.names = [name for name in (*PICTURES, *OF_SAMPLES) if name in out]
        return tuple(out[name] for name in self.names)

    def again(
        self, behind: Float[Tensor, "B R W 3"], parameters: Sequence[Tensor], grads: Sequence
    ) -> tuple[Tensor | None, ...]:
        """The gradients in what is behind and in the parameters."""
        samples, self.samples = self.samples, None
        given, count, most = dict(zip(self.names, grads, strict=True)), 1, 1
        if self.fitting is not None and samples is not None:
            most = len(behind[0])
            count = min(self.fitting.pieces(len(samples["t_points"]), behind.device), most)

        def in_pieces(count: int) -> tuple[Tensor | None, ...]:
            in_behind, sums = torch.zeros_like(behind), [None] * len(parameters)
            for piece in range(count):
                in_x, more = self._piece(piece, count, behind, parameters, given, samples)
                if in_x is not None:
                    in_behind[:, piece::count] = in_x
                sums = [_added(a, b) for a, b in zip(sums, more, strict=True)]
            return in_behind, *sums

        return divided(in_pieces, count, most)

    def _piece(
        self,
        piece: int,
        count: int,
        behind: Float[Tensor, "B R W 3"],
        parameters: Sequence[Tensor],
        given: Mapping[str, Tensor | None],
        samples: Mapping[str, Tensor] | None,
    ) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """The gradients of every `count`-th row from row `piece` on."""
        own, here, kept = slice(piece, None, count), samples, slice(None)
        rows = slice(self.rows.start + piece * self.rows.step, None, count * self.rows.step)
        if count > 1:
            here, kept = samples_of(samples, behind.shape, piece, count)
            if len(kept) == 0:  # the background alone
                in_x = given["comp_rgb"]
                return None if in_x is None else in_x[:, own], [None] * len(parameters)
        x = behind[:, own].detach().requires_grad_()
        with torch.enable_grad():
            out = self.render(rows, self.seed, x, here)
        known = [
            (out[name], grad[:, own] if name in PICTURES else grad[kept])
            for name, grad in given.items()
            if grad is not None and out[name].requires_grad
        ]
        outputs, of_outputs = zip(*known, strict=True)
        inputs = [x, *parameters]
        in_x, *more = torch.autograd.grad(outputs, inputs, of_outputs, allow_unused=True)
        return in_x, more


def _added(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    if total is None or more is None:
        return more if total is None else total
    return total.add_(more)


def samples_of(
    samples: Mapping[str, Tensor], shape: Sequence[int], piece: int, count: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Those of every `count`-th row of rays from row `piece` on, and which they are.

    Args:
        shape: [B R W ...] of the rays, in whose order `ray_indices` counts.
    """
    _, height, width = shape[:3]
    rays = samples["ray_indices"]
    row = rays // width % height
    kept = (row % count == piece).nonzero()[:, 0]
    rays, row = rays[kept], row[kept]
    own_height = len(range(piece, height, count))
    view = rays // (width * height)
    own = {name: values[kept] for name, values in samples.items()}
    own["ray_indices"] = (view * own_height + row // count) * width + rays % width
    return own, kept


class Deferred(torch.autograd.Function):
    """A part without a graph, which the backward pass renders again with one.

    Gradients of the parameters are returned and not accumulated on the way, as a reentrant
    `torch.utils.checkpoint` would: DistributedDataParallel takes each of them once.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda")
    def forward(ctx, part: Part, behind: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.part = part
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(behind, *parameters)
        return part.first(behind)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        behind, *parameters = ctx.saved_tensors
        return None, *ctx.part.again(behind, parameters, grads)
