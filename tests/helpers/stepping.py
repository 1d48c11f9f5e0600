"""Takes a run's checkpoint to another step, so that a test need not train up to it."""

from pathlib import Path

import torch


def put_at_step(checkpoint: Path, step: int, target: Path) -> Path:
    """Writes `checkpoint` as if it had been saved after `step` steps; returns `target`."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    loop = state["loops"]["fit_loop"]
    counts = [loop["epoch_loop.batch_progress"]]
    counts += [loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]]
    for progress in counts:
        for count in (progress["total"], progress["current"]):
            count.update(dict.fromkeys(count, step))
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = step
    state["global_step"] = step
    torch.save(state, target)
    return target
