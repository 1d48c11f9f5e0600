"""Replays a model's calls as CUDA graphs: one launch in place of a thousand.

A UNet of Stable Diffusion starts about a thousand kernels, which takes Python longer than a GPU
needs for a few latents. The first call with tensors of some shapes is an ordinary one, the second
is captured, and the later ones copy their inputs into the graph's and replay it: the same kernels
and numbers. A device's graphs share the memory that they work in, which holds the largest call and
stays theirs; only their inputs and outputs are their own.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from .free_memory import GraphMemory, free_memory, graph_memory, held_by_graphs

SPARE = 8  # times what a graph takes has to be free, for all that a step takes besides

Graph = tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor, GraphMemory]  # its inputs, its output


class GraphedCalls:
    """`function(*tensors)`, on a GPU as a CUDA graph wherever no gradient is asked for.

    Calls follow each other on one stream: graphs that share memory may not run at the same time.

    Args:
        function: takes tensors or None and returns one tensor; it waits for nothing and depends on
            nothing else that changes, or `clear` is called when it did.
        bytes_per_pixel: that it takes for each pixel of its first argument, about.
        spare: see `SPARE`.
    """

    def __init__(
        self, function: Callable[..., Tensor], bytes_per_pixel: int, spare: float = SPARE
    ) -> None:
        self.function, self.bytes_per_pixel, self.spare = function, bytes_per_pixel, spare
        self.clear()

    def clear(self) -> None:
        """Forgets the graphs, as after a change to the function."""
        self._graphs: dict[tuple, Graph | tuple[()] | None] = {}

    def __call__(self, *tensors: Tensor | None) -> Tensor:
        given = [x for x in tensors if x is not None]
        if torch.is_grad_enabled() or not given[0].is_cuda:
            return self.function(*tensors)
        key = tuple(None if x is None else (x.shape, x.dtype) for x in tensors)
        if key not in self._graphs:
            self._graphs[key] = None if self._fits(given[0]) else ()
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
        graph, inputs, output, _ = self._graphs[key]
        for own, x in zip(inputs, given, strict=True):
            own.copy_(x)
        graph.replay()
        return output.clone()

    def _fits(self, first: Tensor) -> bool:
        batch, _, height, width = first.shape
        needed = batch * height * width * self.bytes_per_pixel
        more = needed - held_by_graphs(first.device)
        return more <= 0 or free_memory(first.device) > self.spare * more

    def _capture(self, tensors: tuple) -> Graph:
        inputs = [None if x is None else x.clone() for x in tensors]
        own = [x for x in inputs if x is not None]
        device = own[0].device
        memory, graph = graph_memory(device), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=memory.pool, capture_error_mode="thread_local"):
            before = torch.cuda.memory_reserved(device)  # after what is unused was given back
            output = self.function(*inputs)
            memory.n_bytes += torch.cuda.memory_reserved(device) - before
        return graph, own, output, memory
