"""The launcher's command line, and which GPUs it may see."""

import argparse
import os
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

ACTIONS = ("train", "validate", "test", "export")


@dataclass
class Options:
    """What the user asked for.

    Attributes:
        action: one of `ACTIONS`.
        config: path of the YAML file.
        overrides: `key=value` items for the config.
        gpu: as in `--gpu`, or None.
    """

    action: str
    config: str
    overrides: list[str]
    gpu: str | None = None
    verbose: bool = False
    typecheck: bool = False

    @property
    def override_config(self) -> DictConfig:
        return OmegaConf.from_cli(self.overrides)

    @property
    def raw_config(self) -> DictConfig:
        """The config as written: merged with the overrides, interpolations not resolved."""
        return OmegaConf.merge(OmegaConf.load(self.config), self.override_config)


def parse_arguments(argv: list[str]) -> Options:
    """Reads the command line; `--help` and malformed flags end the program, as argparse does.

    Raises:
        FileNotFoundError: if the config file does not exist.
        ValueError: if it is no config, or an override is no `key=value`.
    """
    parser = argparse.ArgumentParser(
        prog="launch.py",
        description="Trains, validates, tests or exports what a config describes.",
        epilog="Anything else is key=value and overrides the config, such as "
        'system.prompt_processor.prompt="a green bear" trainer.max_steps=100.',
    )
    parser.add_argument("--config", required=True, help="path of the YAML config")
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
    parser.add_argument(
        "--typecheck", action="store_true", help="check tensor shapes and types (needs typeguard)"
    )
    args, overrides = parser.parse_known_args(argv)
    options = Options(
        action=next(name for name in ACTIONS if getattr(args, name)),
        config=args.config,
        overrides=overrides,
        gpu=args.gpu,
        verbose=args.verbose,
        typecheck=args.typecheck,
    )
    _check_overrides(overrides)
    _check_config(options)
    return options


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


def _check_config(options: Options) -> None:
    if not os.path.isfile(options.config):
        raise FileNotFoundError(f"--config {options.config} does not exist: check the path.")
    try:
        loaded = OmegaConf.load(options.config)
    except YAMLError as error:
        raise ValueError(f"--config {options.config} is not valid YAML: {error}") from error
    if not isinstance(loaded, DictConfig):
        raise ValueError(
            f"--config {options.config} must hold `key: value` lines at its top level."
        )


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
