"""What of the benchmark's results goes into docs."""

import csv
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from threestudio_jointdreamer.files import replacing
from threestudio_jointdreamer.systems.picture_grid import picture_grid, save_picture

from benchmarks.janus_benchmark.tables import MAIN
from jointdreamer.csv_table import write_csv
from jointdreamer.evaluation.contact_sheet import turntable_tiles
from jointdreamer.runs import Run
from jointdreamer.sweeps.plan import PlannedRun

PUBLISHED = {
    "timing": "benchmark-timing",
    "janus": "janus",
    "ablation": "ablation",
    "methods": "benchmark-methods",
}
ASSETS = (  # columns of what is published of each asset
    *("method", "seed", "prompt", "clip_score", "r_precision", "rank"),
    *("faces", "face_extents_deg", "janus", "faceless"),
)
PICTURED, PICTURED_PROMPTS = ("sds", "jsd-multiview", "jsd-sum"), 8


def publish_tables(out: Path, results: Path) -> None:
    for name, published in PUBLISHED.items():
        if (out / f"{name}.csv").is_file():
            with replacing(results / f"{published}.csv") as new:
                shutil.copyfile(out / f"{name}.csv", new)
    with open(out / "assets.csv", encoding="utf-8", newline="") as file:
        assets = [{name: row[name] for name in ASSETS} for row in csv.DictReader(file)]
    write_csv(results / "benchmark-assets.csv", assets)


def publish_sheets(runs: Sequence[PlannedRun], results: Path, picture: Path) -> None:
    """A sheet of the first table's methods for each seed, and of a few the README's `picture`."""
    seeds = list(dict.fromkeys(run.seed for run in runs))
    for seed in seeds:
        shown = [run for run in runs if run.seed == seed and run.method.name in MAIN]
        if shown:
            side_by_side(shown, results / f"benchmark-seed{seed}.jpg")
    first = [run for run in runs if run.seed == seeds[0] and run.method.name in PICTURED]
    prompts = spread(list(dict.fromkeys(run.prompt for run in first)), PICTURED_PROMPTS)
    if {run.method.name for run in first} == set(PICTURED):
        side_by_side([run for run in first if run.prompt in prompts], picture)


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


def spread(prompts: Sequence[str], count: int | None) -> tuple[str, ...]:
    """`count` of the prompts, evenly out of their list."""
    count = min(count or len(prompts), len(prompts))
    return tuple(prompts[index * len(prompts) // count] for index in range(count))


def put_in_page(page: Path, name: str, text: str) -> None:
    """Replaces what is between `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: the page has no such place.
    """
    content = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    changed, count = pattern.subn(lambda found: f"{begin}\n{text}\n{end}", content)
    if count != 1:
        raise ValueError(f"{page} must hold {begin} and {end} once: restore them.")
    with replacing(page) as new:
        new.write_text(changed, encoding="utf-8")
