"""Scenes of two creatures: does each have one face and its own colour?

    python benchmarks/scenes.py --jobs 8 --together 12    # a GPU

Runs configs/sweeps/scenes.yaml, does what is left if started again, and looks at every creature by
itself. Faces are the Janus meter's; colour and species those of the caption, of the eighty such as
"a red bear", that the tiny CLIP finds most like the views.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.baselines import PROGRAM, PROGRAM_TOGETHER, register

register()

from joblib import Parallel, delayed  # noqa: E402
from rich.console import Console  # noqa: E402

from benchmarks.janus_benchmark.publishing import side_by_side  # noqa: E402
from benchmarks.measure import as_text, positive  # noqa: E402
from jointdreamer.csv_table import write_csv  # noqa: E402
from jointdreamer.evaluation.intervals import rate_interval  # noqa: E402
from jointdreamer.host import errors  # noqa: E402
from jointdreamer.sweeps.plan import PlannedRun, read_sweep  # noqa: E402
from jointdreamer.sweeps.records import Record  # noqa: E402
from jointdreamer.sweeps.run import Workers, remove_runs, run_sweep, visible_gpus  # noqa: E402
from jointdreamer.tinyworld.captions import parse, with_article  # noqa: E402
from jointdreamer.tinyworld.creatures import COLOR_NAMES, SPECIES  # noqa: E402
from jointdreamer.tinyworld.scenes import parts_of  # noqa: E402

CAPTIONS = [with_article(f"{color} {animal}") for color in COLOR_NAMES for animal in SPECIES]
KINDS = ("one face", "Janus", "faceless")


def look_at(run: PlannedRun) -> list[dict[str, Any]]:
    """A row for each creature of a run."""
    import torch
    import torch.nn.functional as F

    from jointdreamer.evaluation.clip_models import load_clip
    from jointdreamer.janus import creatures_of, judge

    clip, rows = load_clip("load/tiny/clip", torch.device("cpu")), []
    texts = F.normalize(clip.texts(CAPTIONS), dim=-1)
    looks = creatures_of(run.folder, size=64)
    for wanted, (name, views) in zip(parts_of(run.prompt), looks.items(), strict=True):
        verdict = judge(views.frames, views.azimuths_deg)
        images = clip.images([(frame * 255).byte().numpy() for frame in views.frames])
        seen = CAPTIONS[int((texts @ F.normalize(images, dim=-1).mean(dim=0)).argmax())]
        true, found = parse(wanted), parse(seen)
        own = {
            f"own_{key}": bool(getattr(true, key) == getattr(found, key))
            for key in ("color", "species")
        }
        row = {"method": run.method.name, "seed": run.seed, "prompt": run.prompt, "creature": name}
        row |= {"kind": verdict.kind, "faces_deg": " ".join(f"{x:.0f}" for x in verdict.faces_deg)}
        good = verdict.kind == "one face" and own["own_color"]
        rows.append(row | {"seen": seen, **own, "good": good})
    return rows


def summary(scenes: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each method: percentages of creatures; scenes of which both creatures are good."""
    found = []
    for method in dict.fromkeys(scene[0]["method"] for scene in scenes):
        own = [scene for scene in scenes if scene[0]["method"] == method]
        each, good = sum(own, []), sum(all(row["good"] for row in scene) for scene in own)
        low, high = (round(100 * x) for x in rate_interval(good, len(own)))
        shares = {kind: [row["kind"] == kind for row in each] for kind in KINDS}
        shares |= {key: [row[key] for row in each] for key in ("own_color", "own_species")}
        percent = {name: f"{100 * sum(x) / len(x):.1f}" for name, x in shares.items()}
        scores = {"good scenes": f"{good} of {len(own)}", "interval": f"{low} to {high} %"}
        found.append({"method": method} | percent | scores)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweep", type=Path, default=Path("configs/sweeps/scenes.yaml"))
    parser.add_argument("--methods", help="only these, such as sds,jsd")
    parser.add_argument("--jobs", type=positive, default=1, help="processes at a time")
    parser.add_argument("--together", type=positive, default=1, help="runs in each, at most")
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="of the runs")
    parser.add_argument("--out", help="of the runs; default: the sweep's")
    parser.add_argument("--fresh", action="store_true", help="start all of these runs over")
    args, overrides = parser.parse_known_args(argv)
    with errors.reported(False) as outcome:
        methods = args.methods and args.methods.split(",")
        sweep = read_sweep(args.sweep, methods, overrides, out=args.out)
        for part in (part for prompt in sweep.prompts for part in parts_of(prompt)):
            parse(part)
        runs = sweep.runs()
        if args.fresh:
            remove_runs(runs)
        how = args.jobs, "threading", visible_gpus(), args.together, PROGRAM_TOGETHER
        run_sweep(runs, Workers(PROGRAM, *how, args.max_seconds), Console())
        done = [run for run in runs if Record.of(run).done]
        print(f"{len(done)} of {len(runs)} runs have finished", flush=True)
        if not done:
            raise ValueError("no run has finished: the same command goes on where they are.")
        from benchmarks.scenes import look_at as look  # by its name: whose module has the host

        looks = (delayed(look)(run) for run in done)
        scenes = Parallel(n_jobs=args.jobs, inner_max_num_threads=1)(looks)
        write_csv(sweep.out / "scenes.csv", [row for scene in scenes for row in scene])
        write_csv(sweep.out / "methods.csv", summary(scenes))
        print(as_text(summary(scenes)))
        print(side_by_side(done, sweep.out / "scenes.jpg"))
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
