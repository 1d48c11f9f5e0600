"""What a whole training step costs in each phase of a recipe: render, guidance, backward, update.

    python benchmarks/training_step.py                                # the shipped tiny priors
    python benchmarks/training_step.py --random full --csv outputs/training-step.csv   # on a GPU

The phases follow each other in one run of the real system, data module and trainer: SDS before the
energy starts, JSD at the first resolution, JSD at the second. A phase's first steps are left out,
its time is the median of the rest, and its memory the GPU's peak over the phase. `--random full`
runs configs/jointdreamer.yaml with random weights of the published sizes.
"""

import argparse
import importlib
import logging
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from tables import write_csv

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
PHASES = ("SDS", "JSD", "JSD, second resolution")
WARM_UP = 4  # steps of a phase that are left out


class StepClock(pl.Callback):
    """Times every training step, and takes the peak memory of every phase."""

    def __init__(self, steps_per_phase: int) -> None:
        self.steps_per_phase = steps_per_phase
        self.seconds: list[float] = []
        self.peaks: list[float] = []

    def on_train_batch_start(self, trainer, *args) -> None:
        self._synchronize()
        if trainer.global_step % self.steps_per_phase == 0 and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer, *args) -> None:
        self._synchronize()
        self.seconds.append(time.perf_counter() - self._start)
        if trainer.global_step % self.steps_per_phase == 0:
            peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
            self.peaks.append(peak / 2**30)

    def _synchronize(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs/tiny/jointdreamer.yaml"))
    parser.add_argument("--random", choices=["full"], help="random weights of that size")
    parser.add_argument("--steps", type=int, default=14, help="of a phase")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--csv", type=Path)
    return parser.parse_known_args()


def overrides_of(args: argparse.Namespace, folder: Path) -> list[str]:
    n = args.steps
    guidance = "system.guidance"
    overrides = [
        "system.prompt_processor.prompt=a red bear",
        "system.guidance_eval_step=0",
        f"{guidance}.energy_weight=[{n - 1},0.0,1.0,{n}]",
        f"data.resolution_milestones=[{2 * n}]",
        f"exp_root_dir={folder}",
    ]
    if args.compile:
        overrides += [f"{guidance}.compile=true", f"{guidance}.energy.compile=true"]
    if args.random:
        args.config = str(ROOT / "configs/jointdreamer.yaml")
        builders = importlib.import_module("helpers.random_priors")
        prior = builders.build_full_size(folder / "stable-diffusion", 0)
        multiview = builders.build_full_size(folder / "mvdream", 1, multiview=True)
        overrides += [
            f"{guidance}.pretrained_model_name_or_path={prior}",
            f"{guidance}.energy.pretrained_model_name_or_path={multiview}",
            f"system.prompt_processor.cache_dir={folder / 'cache'}",
        ]
    return overrides


def run(args: argparse.Namespace, overrides: list[str]) -> StepClock:
    import threestudio
    from threestudio.utils.config import load_config

    on_gpu = torch.cuda.is_available()
    cfg = load_config(args.config, cli_args=overrides, n_gpus=int(on_gpu))
    pl.seed_everything(cfg.seed)
    clock = StepClock(args.steps)
    trainer = pl.Trainer(
        max_steps=len(PHASES) * args.steps,
        accelerator="gpu" if on_gpu else "cpu",
        devices=1,
        precision=cfg.trainer.get("precision", "32-true") if on_gpu else "32-true",
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    system = threestudio.find(cfg.system_type)(cfg.system)
    system.set_save_dir(str(Path(cfg.trial_dir) / "save"))
    trainer.fit(system, datamodule=threestudio.find(cfg.data_type)(cfg.data))
    return clock


def main() -> None:
    args, overrides = parse_arguments()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*")
    host = importlib.import_module("standalone.host")
    host.ensure_host()
    host.load_extension()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        overrides = overrides_of(args, Path(folder)) + overrides
        made = time.perf_counter() - start
        clock = run(args, overrides)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(f"{device}, torch {torch.__version__}, random weights made in {made:.0f} s")
    print(f"{'phase':26}{'ms a step':>10}{'GiB':>7}")
    rows = []
    for i, phase in enumerate(PHASES):
        own = clock.seconds[i * args.steps + WARM_UP : (i + 1) * args.steps]
        row = {"phase": phase, "ms": round(1000 * statistics.median(own), 1)}
        row |= {"peak_gib": round(clock.peaks[i], 1), "device": device, "compile": args.compile}
        rows.append(row | {"torch": torch.__version__, "random": args.random or "none"})
        print(f"{phase:26}{row['ms']:10.1f}{row['peak_gib']:7.1f}")
    if args.csv:
        write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
