"""The launcher's command line, and which GPUs it may see."""

import argparse
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..paths import find_file
from .resume import filled, run_config

# what is said in words: it is text, and no YAML
PROMPT = re.compile(r"(.+\.)?(prompt(_front|_side|_back|_overhead)?|negative_prompt)")
ACTIONS = {
    "train": "train, then render a turntable",
    "validate": "render the validation views",
    "test": "render the turntable",
    "export": "write a mesh",
}


@dataclass
class Options:
    """What the user asked for.

    Attributes:
        action: one of `ACTIONS`.
        config: the YAML file, or None where that of the run with `resume=` stands in for it.
        overrides: the `key=value` items.
        base: the config as written, or that of the run with `resume=`, before the overrides.
        raw: with them, interpolations not resolved.
        gpu: as in `--gpu`, or None.
        view: port of the live view, or None.
    """

    action: str
    config: Path | None
    overrides: DictConfig
    base: DictConfig
    raw: DictConfig
    gpu: str | None
    view: int | None
    verbose: bool


def parse_arguments(argv: list[str]) -> Options:
    """Reads the command line; `--help` and malformed flags end the program, as argparse does.

    Raises:
        FileNotFoundError: if the config file does not exist.
        ValueError: if it is no config, there is none, or an override is no `key=value`.
    """
    parser = argparse.ArgumentParser(
        prog="launch.py",
        description="Trains, validates, tests or exports what a config describes.",
        epilog="Anything else is key=value and overrides the config, such as "
        'system.prompt_processor.prompt="a green bear" trainer.max_steps=100.',
    )
    parser.add_argument("--config", help="path of the YAML config; resume=RUN has one of its own")
    actions = parser.add_mutually_exclusive_group(required=True)
    for action, text in ACTIONS.items():
        actions.add_argument(
            f"--{action}", action="store_const", const=action, dest="action", help=text
        )
    parser.add_argument(
        "--gpu",
        help="GPUs to use, such as 0 or 1,2; 0 if nothing else is said. Ignored if "
        "CUDA_VISIBLE_DEVICES is set, whose GPUs are all used.",
    )
    parser.add_argument("--view", action="store_true", help="look at --train in the browser")
    parser.add_argument("--view-port", type=int, default=8080, help="default: %(default)s")
    parser.add_argument("--verbose", action="store_true", help="log everything, show tracebacks")
    args, items = parser.parse_known_args(argv)
    if args.view and args.action != "train":
        raise ValueError("--view goes with --train; `jointdreamer view RUN` shows a finished run.")
    view = args.view_port if args.view else None
    changes = {item: read_override(item) for item in items}
    overrides = _merged(OmegaConf.create(), changes)
    config = None if args.config is None else find_file(args.config, "--config")
    given = OmegaConf.create() if config is None else OmegaConf.load(config)
    if not isinstance(given, DictConfig):
        raise ValueError(f"--config {config} must hold `key: value` lines at its top level.")
    resume = overrides.get("resume", given.get("resume"))
    if not isinstance(resume, str | None):
        raise ValueError(f"resume={resume} is no path: give a run's folder or a checkpoint of it.")
    of_run = run_config(resume)
    base = of_run if config is None else given
    if config is None and not base:
        raise ValueError(
            "--config is missing: give a YAML file, or by resume=RUN a run whose config to use."
        )
    raw = filled(_merged(base, changes), of_run)
    return Options(args.action, config, overrides, base, raw, args.gpu, view, args.verbose)


def read_override(item: str) -> DictConfig:
    """The config that `key=value` makes. The value is YAML, but a prompt is text.

    Quotes around the whole of a prompt are not part of it.

    Raises:
        ValueError: it is none, or no YAML.
    """
    key, separator, value = item.partition("=")
    if not separator or not key or key.startswith("-"):
        raise ValueError(
            f"'{item}' is not understood: options are in --help, overrides of the config are "
            "key=value."
        )
    try:
        if PROMPT.fullmatch(key):
            change = OmegaConf.create()
            OmegaConf.update(change, key, _as_text(value))
            return change
        if re.search(r"(^|\s)#", value) and "#" not in str(yaml.safe_load(value)):
            raise YAMLError("what follows # is a comment")
        return OmegaConf.from_cli([item])
    except (YAMLError, OmegaConfBaseException) as error:
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ValueError(
            f"{item} cannot be read as YAML ({reason}). A text goes into quotes inside the "
            f"""shell's, as in {key}='"..."'; a list is [1, 2], a dict {{a: 1}}."""
        ) from error


def _as_text(value: str) -> str:
    """A text as it is given, as OmegaConf writes it."""
    if re.fullmatch(r'"([^"\\]|\\.)*"', value):
        try:
            value = json.loads(value, strict=False)
        except ValueError:  # a backslash that means itself
            value = value[1:-1]
    elif re.fullmatch(r"'([^']|'')*'", value):
        value = value[1:-1].replace("''", "'")
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)


def _merged(cfg: DictConfig, changes: dict[str, DictConfig]) -> DictConfig:
    """The config with each change, which is named by how it was written."""
    for item, change in changes.items():
        try:
            cfg = OmegaConf.merge(cfg, change)
        except (OmegaConfBaseException, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{item} does not go with the config ({reason}): a list is given as a whole, as in "
                "data.width=[16,32], and a block by its keys."
            ) from error
    return cfg


def choose_gpus(gpu: str | None, trainer: DictConfig) -> int:
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
    elif gpu is not None or devices is None:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", gpu or "0")
    elif isinstance(devices, list):
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", ",".join(map(str, devices)))
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
    if value is None or value in (-1, "-1", "auto"):
        return None if value is None else "auto"
    text = str(value)  # such as 2, [1, 3] or '1,3'
    if re.fullmatch(r"[1-9]\d*|\[\d+(, \d+)*\]|\d+(,\d+)+", text):
        return int(text) if text.isdecimal() else [int(part) for part in re.findall(r"\d+", text)]
    raise ValueError(
        f"trainer.devices={value} is not understood: give a number, a list like [0,1], or auto."
    )
