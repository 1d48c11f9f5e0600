"""Replays a model's calls as CUDA graphs: one launch in place of a thousand.

A UNet of Stable Diffusion starts about a thousand kernels, which takes Python longer than a GPU
needs for a few latents. The first call with tensors of some shapes is an ordinary one, the second
is captured, and the later ones copy their inputs into the graph's and replay it: the same kernels
and numbers. A graph holds the memory of one call for as long as it lives.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from .free_memory import free_memory

SPARE = 8  # times what a graph holds has to be free, for all that a step takes besides


class GraphedCalls:
    """`function(*tensors)`, on a GPU as a CUDA graph wherever no gradient is asked for.

    Args:
        function: takes tensors or None and returns one tensor; it waits for nothing and depends on
            nothing else that changes, or `clear` is called when it did.
        bytes_per_pixel: that it takes for each pixel of its first argument, about.
    """

    def __init__(self, function: Callable[..., Tensor], bytes_per_pixel: int) -> None:
        self.function, self.bytes_per_pixel = function, bytes_per_pixel
        self.clear()

    def clear(self) -> None:
        """Forgets the graphs, as after a change to the function."""
        self._graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor] | None] = {}

    def __call__(self, *tensors: Tensor | None) -> Tensor:
        given = [x for x in tensors if x is not None]
        if torch.is_grad_enabled() or not given[0].is_cuda:
            return self.function(*tensors)
        key = tuple(None if x is None else (x.shape, x.dtype) for x in tensors)
        if key not in self._graphs:
            batch, _, height, width = given[0].shape
            needed = SPARE * batch * height * width * self.bytes_per_pixel
            self._graphs[key] = None if free_memory(given[0].device) > needed else ()
            return self.function(*tensors)
        if self._graphs[key] is None:
            try:
                self._graphs[key] = self._capture(tensors)
            except RuntimeError as error:  # as of a processor that waits for the GPU
                reason = " ".join(str(error).split())
                warnings.warn(f"A model runs without CUDA graphs ({reason}).", stacklevel=2)
                self._graphs[key] = ()
        if not self._graphs[key]:
            return self.function(*tensors)
        graph, inputs, output = self._graphs[key]
        for own, x in zip(inputs, given, strict=True):
            own.copy_(x)
        graph.replay()
        return output.clone()

    def _capture(self, tensors: tuple) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        inputs = [None if x is None else x.clone() for x in tensors]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output = self.function(*inputs)
        return graph, [x for x in inputs if x is not None], output
