"""How PyTorch keeps a GPU's memory."""

import os
import sys


def set_allocator_default() -> None:
    """For this process, if it has not used a GPU yet, and for its children.

    A renderer's tensors have another size at every step; segments that grow serve them all, where
    fixed ones are kept unused or given back and asked for again. What the user has set stays.
    """
    if sys.platform == "linux":
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
