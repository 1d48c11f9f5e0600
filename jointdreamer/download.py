"""`jointdreamer download`: the models that a config names, so that runs need no network."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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


def download(args: argparse.Namespace) -> None:
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


def model_names(cfg: DictConfig) -> list[ModelName]:
    """Every model that a config names, or that a class in it names by default."""
    found = []
    for key, owner, values in blocks(OmegaConf.to_container(cfg, resolve=False)):
        half = values.get("half_precision_weights")
        if getattr(find_class(owner), "__module__", "").startswith("threestudio."):
            half = half and False  # they read the weights in full precision and cast them
        for name in values:
            path = f"{key}.{name}".lstrip(".")
            if str(name).endswith(SUFFIX) and (value := _resolved(values[name], cfg, path)):
                backbone = bool(values.get("backbone_name_or_path"))
                found.append(ModelName(path, value, owner, half, backbone))
    return found


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


def blocks(
    block: dict[str, Any], key: str = "", type_name: str = ""
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every block of a config: its key, its class's registered name, and its values.

    Where the class is known, its defaults are among the values.
    """
    if config := getattr(find_class(type_name), "Config", None):
        block = OmegaConf.to_container(OmegaConf.structured(config)) | block
    yield key, type_name, block
    for name, value in block.items():
        path, inner = f"{key}.{name}".lstrip("."), str(name).removesuffix("_type")
        if inner != name and value and isinstance(value, str):
            given = block.get(inner)
            of_type = given if isinstance(given, dict) else {}
            yield from blocks(of_type, path.removesuffix("_type"), value)
        elif isinstance(value, dict) and f"{name}_type" not in block:
            yield from blocks(value, path)


def find_class(type_name: str) -> type | None:
    """The registered class of that name, if there is one."""
    import threestudio

    try:
        return threestudio.find(type_name)
    except (KeyError, ValueError):
        return None


def _resolved(value: Any, cfg: DictConfig, path: str) -> str | None:
    """A value as a run sees it; None if it is left to the user."""
    if not isinstance(value, str) or value == "???":
        return None
    try:
        return OmegaConf.select(cfg, path) if "${" in value else value
    except OmegaConfBaseException:
        return None
