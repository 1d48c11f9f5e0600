"""How much of a GPU's memory a process may still take."""

import torch


def free_memory(device: torch.device) -> int:
    """Bytes: what the driver has left and this process may have, and what PyTorch keeps unused."""
    free, total = torch.cuda.mem_get_info(device)
    reserved, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    limit = int(torch.cuda.get_per_process_memory_fraction(device) * total)
    return min(free, limit - reserved) + reserved - allocated
