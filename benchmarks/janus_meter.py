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
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from joblib import delayed

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measure import all_of, as_text, load_host  # noqa: E402

load_host()

from threestudio_jointdreamer.files import replacing  # noqa: E402

from jointdreamer.csv_table import write_csv  # noqa: E402
from jointdreamer.janus.calibration import ScoredAsset, choose_limits  # noqa: E402
from jointdreamer.janus.detectors import TINY_FOLDER, FaceDetector  # noqa: E402
from jointdreamer.janus.synthetic import draw_assets, render_asset  # noqa: E402
from jointdreamer.janus.training import PICTURES, PLAN, train_face_detector  # noqa: E402
from jointdreamer.janus.verdict import Verdict, verdict_of  # noqa: E402
from jointdreamer.progress import track  # noqa: E402

SEEDS = {"calibrate": 101, "held-out": 202}  # of the creatures
STEPS = (60, 100, 160, 300)  # of the fits in turn: from very soft to nearly sharp
KINDS = ("one face", "Janus", "faceless")


def train(args: argparse.Namespace) -> None:
    report = train_face_detector(
        args.detector, args.steps, args.seed, args.pictures, device=args.device, start=args.start
    )
    print(report)


def fit(args: argparse.Namespace) -> None:
    paths = [args.out / f"{args.split}-{index:03d}.npz" for index in range(args.count)]
    wanted = [index for index, path in enumerate(paths) if not path.exists()]
    calls = (delayed(fit_one)(args.split, index, args.device, paths[index]) for index in wanted)
    all_of(f"fitting {args.split}", calls, args.jobs)


def fit_one(split: str, index: int, device: str, path: Path) -> None:
    """Fits a NeRF to one asset; in a process of its own, the host is loaded first."""
    load_host()
    from jointdreamer.janus.fitting import fit_nerf

    asset = draw_assets(index + 1, split, SEEDS[split])[index]
    steps = STEPS[index // 2 % len(STEPS)]
    views = fit_nerf(asset, steps, index, device)
    with replacing(path) as new:
        np.savez_compressed(
            new,
            frames=(views.frames * 255).round().to(torch.uint8).numpy(),
            azimuths_deg=views.azimuths_deg.numpy(),
            faces_deg=np.array(asset.faces_deg),
            steps=steps,
        )


def rendered(detector: FaceDetector, split: str, count: int) -> Iterator[ScoredAsset]:
    """Assets of ground truth."""
    for asset in track(draw_assets(count, split, SEEDS[split] + 1), f"looking at {split}"):
        frames, azimuths = render_asset(asset)
        yield ScoredAsset(detector(frames), azimuths, len(asset.faces_deg))


def fitted(detector: FaceDetector, split: str, folder: Path) -> Iterator[ScoredAsset]:
    for path in sorted(folder.glob(f"{split}-*.npz")):
        with np.load(path) as data:
            frames = torch.from_numpy(data["frames"]).float() / 255
            azimuths = torch.from_numpy(data["azimuths_deg"])
            yield ScoredAsset(detector(frames), azimuths, len(data["faces_deg"]))


def calibrate(args: argparse.Namespace) -> None:
    detector = FaceDetector.load(args.detector)
    true = list(rendered(detector, "calibrate", args.count))
    fits = list(fitted(detector, "calibrate", args.out))
    # A fitted NeRF is what will be judged: all of them together weigh as much as the true ones.
    weight = max(1, round(len(true) / max(1, len(fits))))
    detector.limits = choose_limits(true + fits * weight)
    detector.save(args.detector)
    print(f"{len(true)} true and {len(fits)} fitted assets: {detector.limits}")


def confusion(args: argparse.Namespace) -> None:
    detector = FaceDetector.load(args.detector)
    rows = []
    for source, assets in (
        ("ground truth", rendered(detector, "held-out", args.count)),
        ("fitted NeRF", fitted(detector, "held-out", args.out)),
    ):
        judged = [
            (asset, verdict_of(asset.scores, asset.azimuths_deg, detector.limits))
            for asset in assets
        ]
        rows += [count(source, kind, judged) for kind in KINDS]
    write_csv(args.csv, rows)
    print(as_text(rows))


def count(source: str, truth: str, judged: list[tuple[ScoredAsset, Verdict]]) -> dict[str, object]:
    """A row of the table: what was said of the assets that are of one kind in truth."""
    own = [(asset, verdict) for asset, verdict in judged if asset.kind == truth]
    said = Counter(verdict.kind for _, verdict in own)
    right = sum(verdict.n_faces == asset.n_faces for asset, verdict in own)
    columns = {f"said_{kind}".replace(" ", "_").lower(): said[kind] for kind in KINDS}
    return {"assets": source, "truth": truth, "n": len(own), **columns, "right_count": right}


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
    calibrating = command(calibrate, "choose the detector's limits")
    calibrating.add_argument("--count", type=int, default=60, help="assets of ground truth")
    counting = command(confusion, "count errors on held-out creatures")
    counting.add_argument("--count", type=int, default=100, help="assets of ground truth")
    counting.add_argument("--csv", type=Path, default=Path("outputs/janus-meter.csv"))
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
