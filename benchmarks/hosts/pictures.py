"""Trains the tiny config with one seed in both hosts, and puts the turntables side by side.

With the same packages below them, both hosts draw the same initial weights, and differ by rounding
and by the order in which the GPU adds; that is what threestudio differs from itself by when it runs
twice. tiny-cuda-nn draws other initial grid entries than its PyTorch twin, so runs are compared
where both have the same encodings.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.hosts.dump import check_checkout, run_in_host
from benchmarks.hosts.frames import compare_turntables, read_turntable
from benchmarks.hosts.session import CONFIGS, PROMPT, choose_standalone_host
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
        took = dict(
            zip(RUNS, pool.map(lambda name: train(name, folder / name, steps), RUNS), strict=True)
        )
    turntables = {name: read_turntable(next((folder / name).glob("*/*/save"))) for name in RUNS}
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
                "seconds": f"{took[ours]:.0f}" if took[ours] is not None and jobs == 1 else "",
            }
        )
    choose_standalone_host()
    if csv:
        write_csv(csv, rows)
    write_sheet(turntables, png)


def train(name: str, folder: Path, steps: int) -> float | None:
    """Trains and renders the turntable; the seconds it took, or None if it was there."""
    if list(folder.glob(f"*/*/save/it{steps}-test.mp4")):
        return None
    run = RUNS[name]
    arguments = ["--config", CONFIGS["tiny"], "--train", f"exp_root_dir={folder}"]
    arguments += [f"system.prompt_processor.prompt={PROMPT}", "use_timestamp=false"]
    arguments += [f"trainer.max_steps={steps}", "trainer.enable_progress_bar=false"]
    return run_in_host(run.threestudio, ["-c", LAUNCH, run.packages, *arguments], run.label)


def write_sheet(turntables: dict, png: Path) -> None:
    """One row for each run, the same views in each."""
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
