"""What a whole training step costs in each phase of a recipe: render, guidance, backward, update.

    python benchmarks/training_step.py                                # the shipped tiny priors
    python benchmarks/training_step.py --random full --csv outputs/training-step.csv   # on a GPU
    THREESTUDIO_ROOT=... python benchmarks/training_step.py --stages refine dmtet      # on a GPU
    python benchmarks/training_step.py --random full --config configs/gaussians.yaml --sizes 64 512
    python benchmarks/training_step.py --random full --prior sd3 --sizes 64 256           # or sdxl

The phases follow each other in one run of the real system, data module and trainer: SDS before the
energy starts, JSD at the first resolution, JSD at the second. A phase's first steps are left out,
its time is the median of the rest, and its memory the GPU's peak over the phase. `--random full`
runs configs/jointdreamer.yaml, or `--config`, with random weights of the published sizes. `--sizes`
runs JSD on four views of each size, each as one phase. `--stages` runs the later stages at full
size, also with random weights, each as one phase. They start from an opaque ball of 0.4 to 0.5 of
the box's radius. A size or a stage that does not fit into the GPU's memory says so.

With --random full and JOINTDREAMER_ROOT in the environment, a checkout of the authors' fork, their
guidance's phases come first, in the threestudio of THREESTUDIO_ROOT if it is set, and then ours in
the standalone host with nothing compiled, each in a process of its own; `ratio` is to theirs.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from benchmarks import authors_guidance
from benchmarks.measure import device_name, in_own_process, load_host, synchronize

ROOT = Path(__file__).resolve().parents[1]
PHASES = ("SDS", "JSD", "JSD, second resolution")
STAGES = ("refine", "dmtet")
WARM_UP = 4  # steps of a phase that are left out
PROMPT = "system.prompt_processor.prompt=a red bear"
BALL = "system.geometry.density_blob_scale=100"  # density 100 (1 - r / 0.5), 25 at r = 0.375


class StepClock(pl.Callback):
    """Times every training step, and takes the peak memory of every phase."""

    def __init__(self, steps_per_phase: int) -> None:
        self.steps_per_phase = steps_per_phase
        self.seconds: list[float] = []
        self.peaks: list[float] = []

    def on_train_batch_start(self, trainer, *args) -> None:
        synchronize()
        if trainer.global_step % self.steps_per_phase == 0 and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer, *args) -> None:
        synchronize()
        self.seconds.append(time.perf_counter() - self._start)
        if trainer.global_step % self.steps_per_phase == 0:
            peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
            self.peaks.append(peak / 2**30)


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", help="default: configs/jointdreamer.yaml, or the tiny one")
    parser.add_argument("--random", choices=["full"], help="random weights of that size")
    parser.add_argument("--prior", choices=["sd", "sdxl", "sd3"], default="sd", help="its family")
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="these instead, at full size")
    parser.add_argument("--sizes", nargs="+", type=int, help="in pixels: JSD at these instead")
    parser.add_argument("--priors", type=Path, help="a folder that keeps them for other calls")
    parser.add_argument("--steps", type=int, default=14, help="of a phase")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--csv", type=Path)
    return parser.parse_known_args()


def phase_overrides(args: argparse.Namespace, folder: Path) -> list[str]:
    """SDS, JSD, JSD at the second resolution, in one run."""
    n = args.steps
    overrides = [
        f"system.guidance.energy_weight=[{n - 1},0.0,1.0,{n}]",
        f"data.resolution_milestones=[{2 * n}]",
    ]
    if args.compile:
        overrides.append("system.guidance.energy.compile=true")
    if args.authors:
        overrides += [f"system.guidance_type={authors_guidance.TYPE}"]
        overrides += ["system.optimizer.args.fused=false"]
    priors = args.priors or folder
    return overrides + (random_priors(priors, family=args.prior) if args.random else [])


def size_overrides(size: int, args: argparse.Namespace, folder: Path) -> list[str]:
    """JSD on four views of one size."""
    data = [f"data.width={size}", f"data.height={size}", "data.batch_size=4"]
    data += ["data.resolution_milestones=[]", "system.guidance.energy_weight=1.0"]
    priors = args.priors or folder
    return data + (random_priors(priors, family=args.prior) if args.random else [])


def stage_overrides(stage: str, folder: Path) -> list[str]:
    """A later stage at full size, from the ball."""
    earlier = write_earlier_stage(folder / "earlier")
    if stage == "dmtet":
        return [*random_priors(folder), f"system.geometry_convert_from={earlier}"]
    return [*random_priors(folder, multiview=False), f"system.weights={earlier}", BALL]


def random_priors(folder: Path, multiview: bool = True, family: str = "sd") -> list[str]:
    """Writes priors of the published sizes, once; returns the overrides that name them."""
    from jointdreamer.testing.random_priors import BUILDERS, build_full_size

    alone, guidance = family == "sd", folder / family
    names = {"system.guidance": guidance, "system.guidance.energy": folder / "mvdream"}
    if not multiview:
        del names["system.guidance.energy"]
    for seed, prior in enumerate(names.values()):
        if prior == guidance and not prior.is_dir():
            BUILDERS["full"][family](prior, seed)
        elif not prior.is_dir():
            build_full_size(prior, seed, multiview=True, whole=not alone)
    encoder = [f"system.guidance.energy.text_encoder_name_or_path={folder / 'mvdream'}"]
    return ([] if alone else encoder) + [
        f"system.prompt_processor.cache_dir={folder / 'cache'}",
        *(f"{key}.pretrained_model_name_or_path={prior}" for key, prior in names.items()),
    ]


def write_earlier_stage(folder: Path) -> Path:
    """A checkpoint in a run's folder, as the next stage wants them: the ball in random colours."""
    import threestudio
    from threestudio.utils.config import dump_config, load_config

    config = str(ROOT / "configs/jointdreamer.yaml")
    cfg = load_config(config, cli_args=[PROMPT, BALL, f"exp_root_dir={folder}"], n_gpus=1)
    geometry = threestudio.find(cfg.system.geometry_type)(cfg.system.geometry)
    weights = {f"geometry.{name}": value for name, value in geometry.state_dict().items()}
    for part in ("configs", "ckpts"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    dump_config(str(folder / "configs" / "parsed.yaml"), cfg)
    path = folder / "ckpts" / "last.ckpt"
    torch.save({"state_dict": weights, "epoch": 0, "global_step": 0}, path)
    return path


def run(config: str, overrides: list[str], steps: int, phases: int) -> StepClock:
    """Trains `phases` times `steps` steps of `config`."""
    import threestudio
    from threestudio.utils.config import load_config

    on_gpu = torch.cuda.is_available()
    cfg = load_config(config, cli_args=overrides, n_gpus=int(on_gpu))
    pl.seed_everything(cfg.seed)
    clock = StepClock(steps)
    trainer = pl.Trainer(
        max_steps=phases * steps,
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


def measure(
    args: argparse.Namespace, stage: str | int | None, more: list[str], folder: Path
) -> list:
    """The rows of a later stage, of a size, or of all phases of the first; `more` are overrides."""
    if stage is None:
        own = phase_overrides(args, folder)
    elif isinstance(stage, int):
        own = size_overrides(stage, args, folder)
    else:
        own = stage_overrides(stage, folder)
    overrides = [PROMPT, f"exp_root_dir={folder}", *own]
    if args.compile:
        overrides.append("system.guidance.compile=true")
    config = args.config or str(ROOT / f"configs/{'' if args.random else 'tiny/'}jointdreamer.yaml")
    if stage in STAGES:
        config = str(ROOT / f"configs/jointdreamer-{stage}.yaml")
    if "guidance_eval_step" in OmegaConf.load(config).system:  # other extensions' systems have none
        overrides.append("system.guidance_eval_step=0")
    phases = (stage,) if stage else PHASES
    try:
        clock = run(config, overrides + more, args.steps, len(phases))
    except torch.OutOfMemoryError as error:
        if not stage:
            raise
        print(f"{stage}: {' '.join(str(error).split())}", file=sys.stderr)
        clock = None
    rows = [row_of(phase, clock, i, args) for i, phase in enumerate(phases)]
    clock = None
    gc.collect()  # models that nothing holds any more
    torch.cuda.empty_cache()
    return rows


def row_of(phase: str, clock: StepClock | None, index: int, args: argparse.Namespace) -> dict:
    """What the phase with this index cost; `clock` is None if it ran out of memory."""
    code = "authors" if args.authors else "ours"
    row = {"phase": phase, "code": code, "ms": "out of memory", "peak_gib": "", "ratio": ""}
    if clock is not None:
        own = clock.seconds[index * args.steps + WARM_UP : (index + 1) * args.steps]
        row["ms"] = round(1000 * statistics.median(own), 1)
        row["peak_gib"] = round(clock.peaks[index], 1)
    size = "full" if args.stages else args.random or "none"
    row |= {"config": args.config or "", "device": device_name(), "compile": args.compile}
    return row | {
        "torch": torch.__version__,
        "random": size,
        "prior": args.prior,
        "host": args.host,
    }


def measure_all(args: argparse.Namespace, overrides: list[str]) -> list[dict]:
    """All rows of a process; prints each, and writes them after each stage."""
    warnings.filterwarnings("ignore", ".*")
    args.host = load_host()
    import threestudio

    from jointdreamer.csv_table import write_csv
    from jointdreamer.host.selection import load_other_extensions

    load_other_extensions()  # those in custom/, whose configs can be timed too
    if args.authors:
        threestudio.register(authors_guidance.TYPE)(authors_guidance.AuthorsGuidance)

    print(f"{device_name()}, torch {torch.__version__}, {args.host} host")
    print(f"{'phase':26}{'code':9}{'ms a step':>14}{'GiB':>7}{'ratio':>7}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for stage in args.stages or args.sizes or [None]:
            for row in measure(args, stage, overrides, Path(folder)):
                if row["phase"] in args.theirs:
                    row["ratio"] = round(row["ms"] / args.theirs[row["phase"]], 3)
                print(
                    f"{row['phase']!s:26}{row['code']:9}{row['ms']:>14}{row['peak_gib']:>7}"
                    f"{row['ratio']:>7}",
                    flush=True,
                )
                rows.append(row)
            if args.csv:
                write_csv(args.csv, args.before + rows)
    return rows


def main() -> None:
    args, overrides = parse_arguments()
    args.theirs, args.before, args.authors = {}, [], False
    whole = args.random == "full" and args.prior == "sd" and not (args.stages or args.sizes)
    if whole and authors_guidance.CHECKOUT in os.environ:
        args.authors = True
        try:
            args.before = in_own_process(measure_all, args, overrides)
        except Exception as error:  # of a checkout's, or of packages that it wants: ours goes on
            print(f"theirs: {type(error).__name__}: {' '.join(str(error).split())[:600]}")
        args.theirs = {row["phase"]: row["ms"] for row in args.before}
        args.authors = False
        os.environ.pop("THREESTUDIO_ROOT", None)
        for switch in ("JOINTDREAMER_TINYCUDANN", "JOINTDREAMER_NERFACC_CUDA"):
            os.environ.setdefault(switch, "0")  # nothing compiled serves ours
    measure_all(args, overrides)


if __name__ == "__main__":
    main()
