"""How much of a GPU a process may still take."""

import pytest
import torch
from threestudio_jointdreamer.priors.free_memory import free_memory


@pytest.mark.parametrize(("fraction", "expected"), [(0.5, 2 + 1), (1.0, 6 + 1), (None, 6 + 1)])
def test_the_processs_own_limit_counts_where_torch_knows_it(monkeypatch, fraction, expected):
    """Of 12 bytes 6 are free and 4 reserved, one of these unused."""
    known = {"mem_get_info": (6, 12), "memory_reserved": 4, "memory_allocated": 3}
    known["get_per_process_memory_fraction"] = fraction
    for name, value in known.items():
        monkeypatch.delattr(torch.cuda, name, raising=False)
        if value is not None:
            monkeypatch.setattr(torch.cuda, name, lambda device, v=value: v, raising=False)
    assert free_memory(torch.device("cuda", 0)) == expected
