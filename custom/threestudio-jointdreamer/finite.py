"""Stops a run at the first thing that is not finite, without making the CPU wait for a GPU."""

from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor


class FiniteCheck:
    """Tensors are looked at where they are; what was found is read when it has arrived.

    On a CPU that is at once, on a GPU at a later `look`.

    Example:
        >>> check = FiniteCheck()
        >>> check.note(12, {"the render is not finite.": rgb, "the loss is not finite.": loss})
        ValueError: step 12: the loss is not finite.
    """

    def __init__(self) -> None:
        self._noted: deque = deque()

    def note(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Looks at tensors of one device, by what is said if they are not finite, causes first.

        Raises:
            ValueError: see `look`.
        """
        found = torch.stack([tensor.detach().isfinite().all() for tensor in tensors.values()])
        arrived = None
        if found.is_cuda:
            found = found.to("cpu", non_blocking=True)  # into pinned memory
            arrived = torch.cuda.Event()
            arrived.record()
        self._noted.append((step, list(tensors), found, arrived))
        if arrived is None:
            self.look()

    def look(self, wait: bool = False) -> None:
        """Reads what has arrived; with `wait` all of it.

        Raises:
            ValueError: names the first thing that is not finite, and its step.
        """
        while self._noted:
            step, names, found, arrived = self._noted[0]
            if arrived is not None and not arrived.query():
                if not wait:
                    return
                arrived.synchronize()
            self._noted.popleft()
            if not found.all():
                self._noted.clear()
                raise ValueError(f"step {step}: {names[int(found.logical_not().nonzero()[0])]}")
