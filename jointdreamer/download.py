"""`jointdreamer download`: the models that a config names, so that runs need no network."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

GIB = 2**30
SUFFIX = "_name_or_path"  # of every key that names a model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Fetch the models that a config names, the *_name_or_path keys of any class, from the "
        "Hugging Face hub into its cache."
    )
    parser.epilog = (
        "Further KEY=VALUE arguments change the config. Afterwards runs work with HF_HUB_OFFLINE=1."
    )
    parser.add_argument("config", type=Path, help="a YAML config")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be fetched")
    parser.set_defaults(run=download, takes_overrides=True)


@dataclass(frozen=True)
class ModelName:
    """A model that a config names.

    Attributes:
        key: the config key; name: its value.
        owner: the registered name of the class whose key it is.
        half: whether it is used in half precision on a GPU; None where its class does not say.
        has_backbone: a backbone is named beside it.
    """

    key: str
    name: str
    owner: str = ""
    half: bool | None = None
    has_backbone: bool = False


def download(args: argparse.Namespace) -> int:
    """Fetches what is not in the cache; prints a line for each model.

    Raises:
        FileNotFoundError: a model is neither here nor on the hub, or the hub cannot be asked.
        OSError: the disk is full.
        ValueError: it is no config.
    """
    from threestudio_jointdreamer.weights import names

    from .experiment import read_experiment

    models = merged(model_names(read_experiment(args.config, args.overrides)))
    for model in models:  # before anything is fetched
        if names.find_local(model.name) is None:
            names.parse_hub_name(model.name, model.key)
    total, fetched = 0, 0
    for model in models:
        path = names.find_local(model.name)
        if path is not None:
            print(f"here         {model.name}")
        elif args.dry_run:
            sizes = names.to_download(model.name, model.key, half=bool(model.half))
            size = sum(sizes.values())
            total += size
            print(f"{size / GIB:8.2f} GiB {model.name}: {', '.join(sizes) or 'in the cache'}")
        else:
            path = names.fetch(model.name, model.key, half=bool(model.half))
            fetched += 1
            print(f"in the cache {model.name}")
        models += backbone_of(model, path)
    if args.dry_run:
        print(f"{total / GIB:.2f} GiB would be downloaded.")
    elif fetched:
        print("Runs with this config need no network (HF_HUB_OFFLINE=1).")
    else:
        print("This config needs nothing from the hub.")
    return 0


def model_names(cfg: DictConfig) -> list[ModelName]:
    """Every model that a config names, or that a class in it names by default."""
    return list(dict.fromkeys(_walk(OmegaConf.to_container(cfg, resolve=False), cfg)))


def merged(models: Sequence[ModelName]) -> list[ModelName]:
    """Each name once; in full precision, which serves for both, if anything needs that."""
    found: dict[str, ModelName] = {}
    for model in models:
        other = found.setdefault(model.name, model)
        if other.half is None or model.half is False:
            found[model.name] = replace(other, half=model.half)
    return list(found.values())


def backbone_of(model: ModelName, path: Path | None) -> list[ModelName]:
    """The published DINO that a pair classifier on this disk names, unless the config does."""
    config = path / "head" / "config.json" if path else None
    if model.has_backbone or config is None or not config.is_file():
        return []
    try:
        name = json.loads(config.read_text()).get("backbone")
    except ValueError:  # which doctor reports, and a run
        return []
    return [ModelName(f"{model.key} (its backbone)", name, half=model.half)] if name else []


def types_in(block: dict[str, Any], key: str = "") -> Iterator[tuple[str, str]]:
    """Each `*_type` key of a config that has a block of its own, and its value."""
    for name, value in block.items():
        path = f"{key}.{name}" if key else name
        if isinstance(value, dict):
            yield from types_in(value, path)
        elif name.endswith("_type") and name.removesuffix("_type") in block and value:
            yield path, value


def find_class(type_name: str | None) -> type | None:
    """The registered class of that name, if there is one."""
    import threestudio

    try:
        return threestudio.find(type_name)
    except (KeyError, ValueError):
        return None


def _walk(
    block: dict[str, Any], cfg: DictConfig, key: str = "", owner: str = ""
) -> Iterator[ModelName]:
    cls = find_class(owner)
    block = _defaults(cls) | block
    half = block.get("half_precision_weights")
    if cls is not None and cls.__module__.startswith("threestudio."):
        half = half and False  # they read the weights in full precision and cast them
    for name, value in block.items():
        path = f"{key}.{name}" if key else str(name)
        if str(name).endswith(SUFFIX):
            value = _resolved(value, cfg, path)
            if value:
                has_backbone = bool(block.get("backbone_name_or_path"))
                yield ModelName(path, str(value), owner, half, has_backbone)
        elif str(name).endswith("_type") and isinstance(value, str):
            inner = str(name).removesuffix("_type")
            given = block.get(inner)
            path = path.removesuffix("_type")
            yield from _walk(given if isinstance(given, dict) else {}, cfg, path, value)
        elif isinstance(value, dict) and f"{name}_type" not in block:
            yield from _walk(value, cfg, path)


def _defaults(cls: type | None) -> dict[str, Any]:
    config = getattr(cls, "Config", None)
    found = {}
    for field in fields(config) if config else ():
        if field.default is not MISSING:
            found[field.name] = field.default
        elif field.default_factory is not MISSING:
            found[field.name] = field.default_factory()
    return found


def _resolved(value: Any, cfg: DictConfig, path: str) -> Any:
    """A value as a run sees it; None if it is left to the user."""
    if not isinstance(value, str) or value == "???":
        return None
    try:
        return OmegaConf.select(cfg, path) if "${" in value else value
    except OmegaConfBaseException:
        return None
