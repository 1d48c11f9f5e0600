"""Trains the tiny config with one seed in both hosts, and puts the turntables side by side.

With the same packages below them, both hosts draw the same initial weights, and differ by rounding
and by the order in which the GPU adds; that is what threestudio differs from itself by when it runs
twice. tiny-cuda-nn draws other initial grid entries than its PyTorch twin, so runs are compared
where both have the same encodings.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.hosts.frames import compare_turntables, read_turntable
from benchmarks.hosts.running import run_process
from benchmarks.hosts.session import CONFIGS, PROMPT, choose_host
from benchmarks.tables import write_csv

COLUMNS = 8  # of the sheet
LAUNCH = (
    "import sys; from benchmarks.hosts.session import choose_host; choose_host(sys.argv[1]); "
    "from jointdreamer.host.launcher import main; sys.exit(main(sys.argv[2:]))"
)


@dataclass(frozen=True)
class Run:
    """One training: its label on the sheet, its host and packages."""

    label: str
    threestudio: bool
    packages: str


RUNS = {
    "threestudio": Run("threestudio", True, "compiled"),
    "standalone": Run("standalone host", False, "compiled"),
    "threestudio-again": Run("threestudio, again", True, "compiled"),
    "threestudio-pytorch": Run("threestudio, encodings in PyTorch", True, "pytorch"),
    "standalone-pytorch": Run("standalone host, all in PyTorch", False, "pytorch"),
}
PAIRS = [
    ("standalone", "threestudio"),
    ("threestudio-again", "threestudio"),
    ("standalone-pytorch", "threestudio-pytorch"),
]


def compare_pictures(steps: int, folder: Path, png: Path, csv: Path | None, jobs: int = 1) -> int:
    """Trains what is not in `folder` yet, prints PSNRs, writes the sheet and the table.

    Args:
        jobs: trainings at a time; their seconds are kept only if it is 1.

    Returns:
        0, or 2 after one line about what is missing or failed.
    """
    if not os.environ.get("THREESTUDIO_ROOT"):
        print("error: THREESTUDIO_ROOT is not set.", file=sys.stderr)
        return 2
    folder = folder.absolute() / f"{steps}-steps"
    with ThreadPoolExecutor(jobs) as pool:
        started = {
            name: pool.submit(train, run, folder / name, steps) for name, run in RUNS.items()
        }
    try:
        took = {name: training.result() for name, training in started.items()}
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    seconds = {name: took[name] for name in RUNS if took[name] is not None and jobs == 1}
    turntables = {name: read_turntable(save_dir(folder / name)) for name in RUNS}
    rows = []
    for ours, theirs in PAIRS:
        together, worst = compare_turntables(turntables[ours], turntables[theirs])
        print(f"{RUNS[ours].label} / {RUNS[theirs].label}: {together:.1f} dB, worst {worst:.1f} dB")
        rows.append(
            {
                "run": RUNS[ours].label,
                "against": RUNS[theirs].label,
                "steps": steps,
                "psnr_db": f"{together:.2f}",
                "worst_frame_db": f"{worst:.2f}",
                "seconds": f"{seconds[ours]:.0f}" if ours in seconds else "",
            }
        )
    if csv:
        write_csv(csv, rows)
    write_sheet(turntables, png)
    return 0


def train(run: Run, folder: Path, steps: int) -> float | None:
    """Trains and renders the turntable, unless it is there.

    Returns:
        The seconds it took, or None if it was there.

    Raises:
        RuntimeError: training failed; the log's end is in the message.
    """
    if list(folder.glob(f"*/*/save/it{steps}-test.mp4")):
        return None
    environment = {key: value for key, value in os.environ.items() if key != "THREESTUDIO_ROOT"}
    if run.threestudio:
        environment["THREESTUDIO_ROOT"] = os.environ["THREESTUDIO_ROOT"]
    arguments = ["--config", CONFIGS["tiny"], "--train", f"exp_root_dir={folder}"]
    arguments += [f"system.prompt_processor.prompt={PROMPT}", "use_timestamp=false"]
    arguments += [f"trainer.max_steps={steps}", "trainer.enable_progress_bar=false"]
    command = [sys.executable, "-c", LAUNCH, run.packages, *arguments]
    start = time.perf_counter()
    run_process(command, environment, run.label)
    seconds = time.perf_counter() - start
    print(f"{run.label}: {seconds:.0f} s", flush=True)
    return seconds


def save_dir(folder: Path) -> Path:
    return next(folder.glob("*/*/save"))


def write_sheet(turntables: dict, png: Path) -> None:
    """One row for each run, the same views in each."""
    os.environ.pop("THREESTUDIO_ROOT", None)  # a sheet needs no host in particular
    choose_host("pytorch")
    from threestudio_jointdreamer.systems.picture_grid import picture_grid, save_picture

    count = len(next(iter(turntables.values()))) - 1  # the last view is the first again
    chosen = [round(i * count / COLUMNS) for i in range(COLUMNS)]
    sheet = picture_grid(
        [[frames[i] for i in chosen] for frames in turntables.values()],
        row_labels=[RUNS[name].label for name in turntables],
        column_labels=[f"{round(360 * i / count)}°" for i in chosen],
    )
    png.parent.mkdir(parents=True, exist_ok=True)
    print(save_picture(png, sheet))
