"""Which weights a config needs, by what its guidance, energies and prompt processor load.

A class of your own, registered with threestudio, says what it loads by a class method:

    @classmethod
    def required_weights(cls, cfg, key):  # cfg: its block of the config; key: that block's name
        yield Requirement(f"{key}.my_model", cfg["my_model"], "unet", half=True)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

import threestudio
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


@dataclass(frozen=True)
class Requirement:
    """One model, tokenizer or scheduler that a run loads.

    Attributes:
        key: the config key that names it.
        name: a folder, an original checkpoint file, or a hub name, as `load_prior` takes it.
        part: its subfolder; empty if the folder itself is the model.
        half: it is used in half precision on a GPU.
        optional: used only if the model has such a part.
        resident: stays in memory while the run trains; the text encoder does not.
    """

    key: str
    name: str
    part: str
    half: bool = False
    optional: bool = False
    resident: bool = True


class Block(Mapping):
    """A block of a config with its class's defaults, as far as it is given.

    Keys that are missing (`???`) or cannot be resolved yet are None.
    """

    def __init__(self, cls: type | None, given: DictConfig | None) -> None:
        self._given = OmegaConf.create({}) if given is None else given
        config = getattr(cls, "Config", None)
        self._defaults = {
            field.name: field.default if field.default is not MISSING else None
            for field in (fields(config) if config else ())
        }

    def __getitem__(self, key: str) -> Any:
        try:
            if key in self._given:
                return self._given[key]
        except OmegaConfBaseException:
            return None
        if key in list(self._given):  # it is `???`
            return self._defaults.get(key)
        return self._defaults[key]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._defaults, **{str(key): None for key in self._given}})

    def __len__(self) -> int:
        return len(set(self))


def requirements(cfg: DictConfig) -> list[Requirement]:
    """What the parts of `cfg.system` load, each part of a model once.

    Raises:
        ValueError: names a type that is not registered.
    """
    system = cfg.get("system") or {}
    found: dict[tuple, Requirement] = {}
    for part in ("guidance", "prompt_processor"):
        if f"{part}_type" not in system:
            continue
        for needed in of_block(system[f"{part}_type"], _block(system, part), f"system.{part}"):
            if needed.name:
                found.setdefault((needed.name, needed.part, needed.half), needed)
    return list(found.values())


def of_block(type_name: str, given: DictConfig | None, key: str) -> Iterator[Requirement]:
    """What the class registered as `type_name` loads for its block of the config."""
    try:
        cls = threestudio.find(type_name)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{key}_type={type_name!r} is not registered in this host: check the name, or run "
            "with a threestudio that has it (THREESTUDIO_ROOT)."
        ) from error
    block = Block(cls, given)
    if hasattr(cls, "required_weights"):
        yield from cls.required_weights(block, key)
    elif type_name in LOADERS:
        yield from LOADERS[type_name](block, key)


def _block(parent: Mapping, name: str) -> DictConfig | None:
    value = parent.get(name)
    return value if OmegaConf.is_dict(value) else None


def parts_of(
    block: Mapping, key: str, parts: Iterable[str], half: bool, **more: bool
) -> Iterator[Requirement]:
    """Parts of the model that a block's `pretrained_model_name_or_path` names.

    Args:
        more: further attributes of `Requirement`.
    """
    name = block.get("pretrained_model_name_or_path")
    for part in parts:
        yield Requirement(
            f"{key}.pretrained_model_name_or_path", str(name or ""), part, half, **more
        )


def vae_of(block: Mapping, key: str, half: bool, own_is_optional: bool) -> Iterator[Requirement]:
    """The VAE that `vae_name_or_path` names, or else the model's own."""
    if block.get("vae_name_or_path"):
        yield Requirement(f"{key}.vae_name_or_path", str(block["vae_name_or_path"]), "vae", half)
    else:
        yield from parts_of(block, key, ["vae"], half, optional=own_is_optional)


def is_half(block: Mapping) -> bool:
    """Whether a block asks for half precision on a GPU."""
    return bool(block.get("half_precision_weights", True))


def _of_guidance(block: Block, key: str) -> Iterator[Requirement]:
    yield from parts_of(block, key, ["unet", "vae", "scheduler"], is_half(block))


def _of_prompt_processor(block: Block, key: str) -> Iterator[Requirement]:
    yield from parts_of(block, key, ["tokenizer", "text_encoder"], half=False, resident=False)


# threestudio's own classes, which say nothing of themselves
LOADERS: dict[str, Callable[[Block, str], Iterator[Requirement]]] = {
    "stable-diffusion-guidance": _of_guidance,
    "stable-diffusion-prompt-processor": _of_prompt_processor,
}
