"""`jointdreamer train-classifier`: its options, and what it prints."""

import argparse
import logging
import sys
import warnings
from dataclasses import fields
from pathlib import Path

INTERRUPTED = 130  # as a shell reports Ctrl-C


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Train jsd-classifier-energy's pair classifier; started again, it goes on."
    add = parser.add_argument
    add(
        "--data",
        default="tinyworld",
        help="tinyworld, or a folder as views_release: <object>/000.png + 000.npy; %(default)s",
    )
    add("--out", type=Path, default=Path("outputs/pair-classifier"), help="default: %(default)s")
    add("--backbone", help="tiny, or a DINO: folder, hub name or .pth; default: tiny for tinyworld")
    add("--train-blocks", type=int, help="of DINO's last blocks, how many learn; default: 3")
    add("--image-size", type=int, help="pixels; default: 64 for tiny, else 224")
    add(
        "--objects", type=int, help="how many to render, or at most to take; default: 20000, or all"
    )
    add("--held-out", type=float, help="objects (1000) of tinyworld, share (0.01) of a folder")
    add("--views", type=int, dest="n_view", help="of an object in a batch; default: 4")
    add("--batch", type=int, help="objects in a batch, per device; default: 64, or 32")
    add("--steps", type=int, help="default: 6000 for tinyworld, else 20000")
    add("--lr", type=float, help="the head's peak learning rate; default: 5e-4, or 3e-4")
    add("--seed", type=int, help="default: 0")
    add(
        "--denoise-with",
        help="tinyworld only: show half of the objects as this 2D prior denoises them in one step, "
        "as the energy sees them; none for none; default: the tiny one",
    )
    add("--accelerator", choices=("auto", "cpu", "gpu"), default="auto", help="%(default)s")
    add("--devices", type=int, default=1, help="GPUs, or processes on the CPU; %(default)s")
    add("--workers", type=int, default=4, help="processes that read a folder; %(default)s")
    add("--save-every", type=int, default=500, help="steps between checkpoints; %(default)s")
    add("--overwrite", action="store_true", help="replace --out if it is there")
    add("--fresh", action="store_true", help="start over, do not resume an interrupted training")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains a classifier and prints a line of metrics.

    Returns:
        The exit status: 0, or 130 after Ctrl-C.

    Raises:
        ValueError, FileNotFoundError: as `train_classifier`; or an option is out of range.
    """
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    from .settings import Settings, default_settings
    from .train_classifier import train_classifier

    for name, least in (("devices", 1), ("workers", 0), ("save_every", 1)):
        if getattr(args, name) < least:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} {getattr(args, name)}: give {least} or more.")
    names = [field.name for field in fields(Settings) if field.name != "data"]
    settings = default_settings(args.data, **{name: getattr(args, name) for name in names})
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings(
        "ignore", ".*(Checkpoint directory|LeafSpec|does not have many workers)"
    )
    try:
        metrics = train_classifier(
            settings,
            args.out,
            args.accelerator,
            args.devices,
            args.workers,
            args.overwrite,
            args.fresh,
            args.save_every,
        )
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the one into the other
        print("interrupted: the same command goes on from the newest checkpoint", file=sys.stderr)
        return INTERRUPTED
    if rank_zero_only.rank == 0:
        shown = ("accuracy", "roc_auc", "calibration_error")
        print(", ".join(f"{name} {metrics[name]:.3f}" for name in shown), "on held-out objects")
        print(args.out)
    return 0
