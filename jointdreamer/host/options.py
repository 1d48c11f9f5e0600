"""The launcher's command line, and which GPUs it may see."""

import argparse
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..paths import find_file
from .resume import filled, run_config

ACTIONS = ("train", "validate", "test", "export")


@dataclass
class Options:
    """What the user asked for.

    Attributes:
        action: one of `ACTIONS`.
        config: path of the YAML file, or None where `resume=` alone tells.
        overrides: `key=value` items for the config.
        gpu: as in `--gpu`, or None.
    """

    action: str
    config: Path | None
    overrides: list[str]
    gpu: str | None = None
    verbose: bool = False

    @cached_property
    def override_config(self) -> DictConfig:
        return OmegaConf.from_cli(self.overrides)

    @cached_property
    def raw_config(self) -> DictConfig:
        """The config as written, overrides included, interpolations not resolved.

        What a run that is resumed was started with stands in for a config that is not given, and
        for the values that the given one lacks (`???`), such as the prompt.

        Raises:
            ValueError: if it is no config, or there is none.
        """
        given = OmegaConf.create() if self.config is None else OmegaConf.load(self.config)
        if not isinstance(given, DictConfig):
            raise ValueError(
                f"--config {self.config} must hold `key: value` lines at its top level."
            )
        given = OmegaConf.merge(given, self.override_config)
        of_run = run_config(given.get("resume"))
        if self.config is not None:
            return filled(given, of_run)
        if not of_run:
            raise ValueError(
                "--config is missing: give a YAML file, or a run by resume=RUN to use the "
                "config in its folder."
            )
        return OmegaConf.merge(of_run, self.override_config)


def parse_arguments(argv: list[str]) -> Options:
    """Reads the command line; `--help` and malformed flags end the program, as argparse does.

    Raises:
        FileNotFoundError: if the config file does not exist.
        ValueError: if an override is no `key=value`.
    """
    parser = argparse.ArgumentParser(
        prog="launch.py",
        description="Trains, validates, tests or exports what a config describes.",
        epilog="Anything else is key=value and overrides the config, such as "
        'system.prompt_processor.prompt="a green bear" trainer.max_steps=100.',
    )
    parser.add_argument("--config", help="path of the YAML config; that of the run with resume=RUN")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--train", action="store_true", help="train, then render a turntable")
    action.add_argument("--validate", action="store_true", help="render the validation views")
    action.add_argument("--test", action="store_true", help="render the turntable")
    action.add_argument("--export", action="store_true", help="write a mesh")
    parser.add_argument(
        "--gpu",
        help="GPUs to use, such as 0 or 1,2; 0 if nothing else is said. Ignored if "
        "CUDA_VISIBLE_DEVICES is set, whose GPUs are all used.",
    )
    parser.add_argument("--verbose", action="store_true", help="log everything, show tracebacks")
    args, overrides = parser.parse_known_args(argv)
    _check_overrides(overrides)
    return Options(
        action=next(name for name in ACTIONS if getattr(args, name)),
        config=None if args.config is None else find_file(args.config, "--config"),
        overrides=overrides,
        gpu=args.gpu,
        verbose=args.verbose,
    )


def _check_overrides(overrides: list[str]) -> None:
    for item in overrides:
        key, separator, _ = item.partition("=")
        if not separator or not key or key.startswith("-"):
            raise ValueError(
                f"'{item}' is not understood: options are in --help, overrides of the "
                "config are key=value."
            )
        try:
            OmegaConf.from_cli([item])
        except (YAMLError, OmegaConfBaseException) as error:
            reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
            raise ValueError(
                f"{item} cannot be read as YAML ({reason}). A text goes into quotes inside the "
                f"""shell's, as in {key}='"..."'; a list is [1, 2], a dict {{a: 1}}."""
            ) from error


def choose_gpus(options: Options, trainer: DictConfig) -> int:
    """Limits this process to the GPUs it is to use, before CUDA starts.

    `CUDA_VISIBLE_DEVICES` as set wins, then `--gpu`, then a list in `trainer.devices`; a number
    there takes the first ones, and without any it is the first GPU. `trainer.accelerator: cpu`
    hides them all.

    Returns:
        How many devices that is.
    """
    devices = requested_devices(trainer)
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if trainer.get("accelerator") == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif "CUDA_VISIBLE_DEVICES" not in os.environ:
        if options.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = options.gpu
        elif isinstance(devices, list):
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
        elif devices is None:
            os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    if isinstance(devices, int):
        return devices
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return max(1, len(os.environ["CUDA_VISIBLE_DEVICES"].split(",")))
    import torch  # takes seconds, which --help need not

    return max(1, torch.cuda.device_count())


def requested_devices(trainer: DictConfig) -> int | list[int] | str | None:
    """`trainer.devices`: how many, or which, or "auto" for all there are; None if it is not given.

    Raises:
        ValueError: if it is none of these.
    """
    value = trainer.get("devices")
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    if isinstance(value, str) and value.replace(",", "").isdecimal():
        value = [int(part) for part in value.split(",")] if "," in value else int(value)
    if value in (-1, "-1", "auto"):
        return "auto"
    numbers = value if isinstance(value, list) else [value]
    whole = all(isinstance(number, int) and number >= 0 for number in numbers)
    if value is None or (whole and value):
        return value
    raise ValueError(
        f"trainer.devices={value} is not understood: give a number, a list like [0,1], or auto."
    )
