"""A torch without a GPU, or with one that CUDA_VISIBLE_DEVICES names."""

import os
from types import SimpleNamespace

_VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES", "")

cuda = SimpleNamespace(
    is_initialized=lambda: bool(_VISIBLE),
    device_count=lambda: 1,
    max_memory_allocated=lambda index: 3 * 2**30,
    get_device_name=lambda: f"GPU {_VISIBLE}",
)
