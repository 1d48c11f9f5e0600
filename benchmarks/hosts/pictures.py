"""Trains the tiny config with one seed in both hosts, and puts the turntables side by side.

With the same packages below them, both hosts draw the same initial weights, and differ by rounding
and by the order in which the GPU adds; that is what threestudio differs from itself by when it runs
twice. tiny-cuda-nn draws other initial grid entries than its PyTorch twin, so runs are compared
where both have the same encodings.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.hosts.dump import check_checkout, run_in_host
from benchmarks.hosts.session import CONFIGS, PROMPT, choose_standalone_host
from jointdreamer.runs import Run, read_picture, turntable
from jointdreamer.slugs import slug

SAME = 99.0  # dB, of frames without any difference
LAUNCH = (
    "import sys; from benchmarks.hosts.session import choose_host; choose_host(sys.argv[1]); "
    "from jointdreamer.host.launcher import main; sys.exit(main(sys.argv[2:]))"
)


TRAININGS = {  # label on the sheet: whether in threestudio, and on which packages
    "threestudio": (True, "compiled"),
    "standalone host": (False, "compiled"),
    "threestudio, again": (True, "compiled"),
    "threestudio, encodings in PyTorch": (True, "pytorch"),
    "standalone host, all in PyTorch": (False, "pytorch"),
}
PAIRS = [
    ("standalone host", "threestudio"),
    ("threestudio, again", "threestudio"),
    ("standalone host, all in PyTorch", "threestudio, encodings in PyTorch"),
]


def read_turntable(trial_dir: Path) -> list[np.ndarray]:
    """The newest test's renders, in order, as [H, H, 3]: the leftmost square of each frame.

    Raises:
        FileNotFoundError: there is none.
    """
    frames = turntable(Run(trial_dir).newest("test")).paths
    return [read_picture(path, aspect=1) for path in frames]


def compare_turntables(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]
) -> tuple[float, float]:
    """PSNR in dB of all frames together, and of the frame that is least alike; SAME at most.

    Raises:
        ValueError: they have different numbers of frames.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} frames cannot be compared with {len(theirs)}.")
    differences = np.stack(list(ours)).astype(np.float64) - np.stack(list(theirs))
    errors = np.maximum((differences**2).mean(axis=(1, 2, 3)), 255**2 * 10 ** (-SAME / 10))
    together = 10 * np.log10(255**2 / errors.mean())
    return float(together), float(10 * np.log10(255**2 / errors.max()))


def compare_pictures(steps: int, folder: Path, png: Path, csv: Path | None, jobs: int = 1) -> None:
    """Trains what is not in `folder` yet, prints PSNRs, writes the sheet and the table.

    Args:
        jobs: trainings at a time; their seconds are kept only if it is 1.

    Raises:
        ValueError: THREESTUDIO_ROOT is not set.
        RuntimeError: a training failed; its log's end is in the message.
    """
    check_checkout()
    folder = folder.absolute() / f"{steps}-steps"
    with ThreadPoolExecutor(jobs) as pool:
        seconds = pool.map(lambda label: train(label, folder / slug(label), steps), TRAININGS)
        took = dict(zip(TRAININGS, seconds, strict=True))
    runs = {label: next((folder / slug(label)).glob("*/*")) for label in TRAININGS}
    turntables = {label: read_turntable(run) for label, run in runs.items()}
    rows = []
    for ours, theirs in PAIRS:
        together, worst = compare_turntables(turntables[ours], turntables[theirs])
        print(f"{ours} / {theirs}: {together:.1f} dB, worst {worst:.1f} dB")
        row = {"run": ours, "against": theirs, "steps": steps}
        row |= {"psnr_db": f"{together:.2f}", "worst_frame_db": f"{worst:.2f}"}
        measured = took[ours] is not None and jobs == 1
        rows.append(row | {"seconds": f"{took[ours]:.0f}" if measured else ""})
    choose_standalone_host()
    from jointdreamer.csv_table import write_csv
    from jointdreamer.evaluation.contact_sheet import compare_runs

    if csv:
        write_csv(csv, rows)
    print(compare_runs([Run(run) for run in runs.values()], png, list(runs)))


def train(label: str, folder: Path, steps: int) -> float | None:
    """Trains and renders the turntable; the seconds it took, or None if it was there."""
    if list(folder.glob(f"*/*/save/it{steps}-test.mp4")):
        return None
    threestudio, packages = TRAININGS[label]
    arguments = ["--config", CONFIGS["tiny"], "--train", f"exp_root_dir={folder}"]
    arguments += [f"system.prompt_processor.prompt={PROMPT}", "use_timestamp=false"]
    arguments += [f"trainer.max_steps={steps}", "trainer.enable_progress_bar=false"]
    return run_in_host(threestudio, ["-c", LAUNCH, packages, *arguments], label)
