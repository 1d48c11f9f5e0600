"""Contact sheets of methods side by side, a picture for each seed."""

from collections.abc import Sequence
from pathlib import Path

from threestudio_jointdreamer.systems.picture_grid import picture_grid, save_picture

from jointdreamer.evaluation.contact_sheet import turntable_tiles
from jointdreamer.runs import Run
from jointdreamer.sweeps.plan import PlannedRun


def side_by_side(runs: Sequence[PlannedRun], path: Path) -> str:
    """A row per prompt, at 0, 90, 180 and 270 degrees per method; where all have finished."""
    methods = list(dict.fromkeys(run.method.name for run in runs))
    by_prompt: dict[str, dict[str, PlannedRun]] = {}
    for planned in runs:
        by_prompt.setdefault(planned.prompt, {})[planned.method.name] = planned
    shared = {prompt: found for prompt, found in by_prompt.items() if len(found) == len(methods)}
    rows = [
        [tile for name in methods for tile in turntable_tiles(Run(found[name].folder))[::2]]
        for found in shared.values()
    ]
    columns = [label for name in methods for label in (name, "90°", "180°", "270°")]
    return save_picture(path, picture_grid(rows, row_labels=list(shared), column_labels=columns))
