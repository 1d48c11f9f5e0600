"""Trains the tiny world's face detector, fits NeRFs with known faces, counts the meter's errors.

python benchmarks/janus_meter.py train
python benchmarks/janus_meter.py fit --split calibrate --count 20 --out outputs/janus-meter
python benchmarks/janus_meter.py fit --split held-out --count 20 --out outputs/janus-meter
python benchmarks/janus_meter.py calibrate --out outputs/janus-meter
python benchmarks/janus_meter.py confusion --out outputs/janus-meter

`fit` takes --device cuda, --jobs N and any --count; what is fitted already is not fitted again.
The detector is trained on creatures of the split `train`, its limits are chosen on `calibrate`, and
errors are counted on `held-out`: no combination of species, colours, clothes and belly is in two
splits.
"""

import argparse
import csv
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jointdreamer.host.selection import ensure_host, load_extension  # noqa: E402

ensure_host()
load_extension()

from jointdreamer.janus.calibration import (  # noqa: E402
    Known,
    choose_limits,
    kind,
    kind_of,
)
from jointdreamer.janus.detector import (  # noqa: E402
    TINY_FOLDER,
    FaceDetector,
)
from jointdreamer.janus.fitting import fit_nerf  # noqa: E402
from jointdreamer.janus.planted import (  # noqa: E402
    draw_planted,
    render_planted,
)
from jointdreamer.janus.training import (  # noqa: E402
    PICTURES,
    PLAN,
    shortened,
    train_face_detector,
)
from jointdreamer.janus.verdict import Verdict, verdict_of  # noqa: E402

SEEDS = {"calibrate": 101, "held-out": 202}  # of the creatures
STEPS = (60, 100, 160, 300)  # of the fits in turn: from very soft to nearly sharp
KINDS = ("one face", "Janus", "faceless")


def train(args: argparse.Namespace) -> None:
    plan = shortened(args.steps, args.seed)
    report = train_face_detector(
        args.detector, plan, args.pictures, device=args.device, start=args.start
    )
    print(report)


def fit(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    if args.jobs > 1:
        return fit_in_processes(args)
    planted = draw_planted(args.count, args.split, SEEDS[args.split])
    chosen = range(args.share, args.count, args.shares)
    for index in track(chosen, f"fitting {args.split}"):
        asset = planted[index]
        path = args.out / f"{args.split}-{index:03d}.npz"
        if path.exists():
            continue
        steps = STEPS[index // 2 % len(STEPS)]
        views = fit_nerf(asset, steps, index, args.device)
        temporary = path.with_suffix(".tmp")
        with open(temporary, "wb") as file:
            np.savez_compressed(
                file,
                frames=(views.frames * 255).round().to(torch.uint8).numpy(),
                azimuths_deg=views.azimuths_deg.numpy(),
                faces_deg=np.array(asset.faces_deg),
                steps=steps,
            )
        os.replace(temporary, path)


def fit_in_processes(args: argparse.Namespace) -> None:
    """Shares the fits out among `args.jobs` processes of this script.

    Raises:
        SystemExit: one of them failed.
    """
    command = [sys.executable, __file__, "fit", "--split", args.split, "--count", str(args.count)]
    command += ["--device", args.device, "--out", str(args.out), "--shares", str(args.jobs)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    jobs = [
        subprocess.Popen([*command, "--share", str(share)], env=environment)
        for share in range(args.jobs)
    ]
    try:
        if any([job.wait() for job in jobs]):
            sys.exit(f"Not all of the {args.count} fits were made: the reason is above.")
    finally:
        for job in jobs:
            job.kill()


def truths(detector: FaceDetector, split: str, count: int) -> Iterator[Known]:
    for asset in track(draw_planted(count, split, SEEDS[split] + 1), f"looking at {split}"):
        frames, azimuths = render_planted(asset)
        yield Known(detector(frames), azimuths, len(asset.faces_deg))


def fits(detector: FaceDetector, split: str, folder: Path) -> Iterator[Known]:
    for path in sorted(folder.glob(f"{split}-*.npz")):
        with np.load(path) as data:
            frames = torch.from_numpy(data["frames"]).float() / 255
            azimuths = torch.from_numpy(data["azimuths_deg"])
            yield Known(detector(frames), azimuths, len(data["faces_deg"]))


def calibrate(args: argparse.Namespace) -> None:
    detector = FaceDetector.load(args.detector)
    assets = list(truths(detector, "calibrate", args.count))
    fitted = list(fits(detector, "calibrate", args.out))
    # A fitted NeRF is what will be judged: all of them together weigh as much as the true ones.
    weight = max(1, round(len(assets) / max(1, len(fitted))))
    detector.limits = choose_limits(assets + fitted * weight)
    detector.save(args.detector)
    print(f"{len(assets)} true and {len(fitted)} fitted assets: {detector.limits}")


def confusion(args: argparse.Namespace) -> None:
    detector = FaceDetector.load(args.detector)
    rows = []
    for source, assets in (
        ("ground truth", list(truths(detector, "held-out", args.count))),
        ("fitted NeRF", list(fits(detector, "held-out", args.out))),
    ):
        found = [(asset, _judged(asset, detector)) for asset in assets]
        for truth in KINDS:
            mine = [(a, v) for a, v in found if kind(a.n_faces) == truth]
            said = Counter(kind_of(verdict) for _, verdict in mine)
            counts = sum(verdict.n_faces == asset.n_faces for asset, verdict in mine)
            rows.append([source, truth, len(mine), *(said[k] for k in KINDS), counts])
    header = ["assets", "truth", "n", *(f"said {k}" for k in KINDS), "right_count"]
    header = [name.replace(" ", "_").lower() for name in header]
    _write_csv(args.csv, header, rows)
    table = Table(*header)
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(table)


def _judged(asset: Known, detector: FaceDetector) -> Verdict:
    return verdict_of(asset.scores, asset.azimuths_deg, detector.limits)


def _write_csv(path: Path, header: list[str], rows: list[list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    os.replace(temporary, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)

    def command(function, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(function.__name__, help=text)
        added.add_argument("--detector", type=Path, default=ROOT / TINY_FOLDER)
        added.add_argument("--device", default="cpu")
        added.add_argument("--out", type=Path, default=Path("outputs/janus-meter"), help="fits")
        added.set_defaults(function=function)
        return added

    training = command(train, "train the face detector")
    training.add_argument("--steps", type=int, default=PLAN.steps)
    training.add_argument("--pictures", type=int, default=PICTURES)
    training.add_argument("--seed", type=int, default=PLAN.seed)
    training.add_argument("--start", type=Path, help="folder of a detector to go on from")
    fitting = command(fit, "fit NeRFs to creatures with known faces")
    fitting.add_argument("--split", choices=SEEDS, required=True)
    fitting.add_argument("--count", type=int, default=20)
    fitting.add_argument("--jobs", type=int, default=1, help="processes at a time")
    fitting.add_argument("--share", type=int, default=0, help=argparse.SUPPRESS)
    fitting.add_argument("--shares", type=int, default=1, help=argparse.SUPPRESS)
    calibrating = command(calibrate, "choose the detector's limits")
    calibrating.add_argument("--count", type=int, default=60, help="assets of ground truth")
    counting = command(confusion, "count errors on held-out creatures")
    counting.add_argument("--count", type=int, default=100, help="assets of ground truth")
    counting.add_argument("--csv", type=Path, default=ROOT / "docs" / "results" / "janus-meter.csv")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
