"""Scenes of two creatures: does each have one face and its own colour?

    python benchmarks/scenes.py --jobs 18 --together 6     # a GPU

Runs configs/sweeps/scenes.yaml, does what is left if started again, and looks at every creature by
itself. Faces are the Janus meter's; colour and species those of the caption, of the eighty such as
"a red bear", that the tiny CLIP finds most like the views.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.baselines import PROGRAM, PROGRAM_TOGETHER, register

register()

from joblib import Parallel, delayed  # noqa: E402
from rich.console import Console  # noqa: E402

from benchmarks.janus_benchmark.publishing import side_by_side  # noqa: E402
from benchmarks.measure import as_text  # noqa: E402
from jointdreamer.csv_table import write_csv  # noqa: E402
from jointdreamer.evaluation.intervals import rate_interval  # noqa: E402
from jointdreamer.sweeps.plan import PlannedRun, read_sweep  # noqa: E402
from jointdreamer.sweeps.records import Record  # noqa: E402
from jointdreamer.sweeps.run import Workers, run_sweep, visible_gpus  # noqa: E402
from jointdreamer.tinyworld.captions import with_article  # noqa: E402
from jointdreamer.tinyworld.creatures import COLOR_NAMES, SPECIES  # noqa: E402

CAPTIONS = [with_article(f"{color} {animal}") for color in COLOR_NAMES for animal in SPECIES]
KINDS = ("one face", "Janus", "faceless")


def look_at(run: PlannedRun) -> list[dict[str, Any]]:
    """A row for each creature of a run."""
    register()  # in a process of its own, before what needs the host
    import torch
    import torch.nn.functional as F

    from jointdreamer.evaluation.clip_models import load_clip
    from jointdreamer.janus import creatures_of, judge
    from jointdreamer.tinyworld.scenes import parts_of

    clip, rows = load_clip("load/tiny/clip", torch.device("cpu")), []
    texts = F.normalize(clip.texts(CAPTIONS), dim=-1)
    looks = creatures_of(run.folder, size=64)
    for wanted, (name, views) in zip(parts_of(run.prompt), looks.items(), strict=True):
        verdict = judge(views.frames, views.azimuths_deg)
        images = clip.images([(frame * 255).byte().numpy() for frame in views.frames])
        seen = CAPTIONS[int((texts @ F.normalize(images, dim=-1).mean(dim=0)).argmax())]
        own_color, own_species = (seen.split()[i] == wanted.split()[i] for i in (1, 2))
        row = {"method": run.method.name, "seed": run.seed, "prompt": run.prompt, "creature": name}
        row |= {"kind": verdict.kind, "faces_deg": " ".join(f"{x:.0f}" for x in verdict.faces_deg)}
        own = {"seen": seen, "own_color": own_color, "own_species": own_species}
        rows.append(row | own | {"good": verdict.kind == "one face" and own_color})
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweep", type=Path, default=Path("configs/sweeps/scenes.yaml"))
    parser.add_argument("--methods", help="only these, such as sds,jsd")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--together", type=int, default=1, help="runs in each, at most")
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="of the runs")
    args, rest = parser.parse_known_args()
    sweep = read_sweep(args.sweep, args.methods and args.methods.split(","), rest)
    how = args.jobs, "threading", visible_gpus(), args.together, PROGRAM_TOGETHER, args.max_seconds
    run_sweep(sweep.runs(), Workers(PROGRAM, *how), Console())
    done = [run for run in sweep.runs() if Record.of(run).done]
    print(f"{len(done)} of {len(sweep.runs())} runs have finished", flush=True)
    if not done:
        return
    looks = (delayed(look_at)(run) for run in done)
    scenes = Parallel(n_jobs=args.jobs, inner_max_num_threads=1)(looks)
    write_csv(sweep.out / "scenes.csv", [row for scene in scenes for row in scene])
    write_csv(sweep.out / "methods.csv", summary(scenes))
    print(as_text(summary(scenes)))
    print(side_by_side(done, sweep.out / "scenes.jpg"))


if __name__ == "__main__":
    main()
