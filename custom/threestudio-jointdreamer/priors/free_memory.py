"""How much of a GPU's memory a process may still take."""

from weakref import WeakValueDictionary

import torch


class GraphMemory:
    """Where a device's CUDA graphs work, one after the other; freed with the last of them.

    What a graph leaves behind is nobody's, so that all can share it; their outputs stay.
    """

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.n_bytes = 0  # which nothing else can have


_graph_memory: WeakValueDictionary[torch.device, GraphMemory] = WeakValueDictionary()


def graph_memory(device: torch.device) -> GraphMemory:
    """The device's; to be held by each of its graphs."""
    found = _graph_memory.get(device)
    if found is None:
        found = _graph_memory[device] = GraphMemory()
    return found


def free_memory(device: torch.device) -> int:
    """Bytes: what the driver has left and this process may have, and what PyTorch keeps unused."""
    free, total = torch.cuda.mem_get_info(device)
    reserved, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    # torch 2.4 cannot say it
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)(device)
    limit = int(fraction * total)
    unused = max(0, reserved - allocated - held_by_graphs(device))
    return min(free, limit - reserved) + unused


def held_by_graphs(device: torch.device) -> int:
    """Bytes."""
    found = _graph_memory.get(device)
    return 0 if found is None else found.n_bytes
