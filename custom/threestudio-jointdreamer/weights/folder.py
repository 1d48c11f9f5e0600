"""A model's folder in diffusers' layout: its parts, and which files hold a part's weights."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .files import read_weights
from .ldm.checkpoint import Checkpoint, Hints, Part
from .ldm.layout import sections_of

PARTS = (
    *("unet", "vae", "scheduler", "tokenizer", "text_encoder", "image_encoder"),
    *("transformer", "tokenizer_2", "text_encoder_2", "tokenizer_3", "text_encoder_3"),
    *("feature_extractor", "cc_projection", "mv_adapter", "head", "backbone", ""),
)
CONFIGS = {  # of the parts that have no weights
    "scheduler": "scheduler_config.json",
    **dict.fromkeys(("tokenizer", "tokenizer_2", "tokenizer_3"), "tokenizer_config.json"),
    "feature_extractor": "preprocessor_config.json",
}
TOKENIZERS = ({"tokenizer.json"}, {"vocab.json", "merges.txt"})  # either of them is enough
# What some repositories keep beside a part's own folder or in its place: the camera embedding of a
# stock UNet, which MVDream's is then, and Zero-1-to-3's projection by Zero123-XL's name.
SIDE_FOLDERS = {"unet": "camera_proj", "cc_projection": "clip_camera_projection"}
LDM_CLASS = "MultiViewUNet"  # the beginning of the class name of MVDream's own UNets
WEIGHT_FILE = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?P<half>\.fp16)?"
    r"(?:-\d{5}-of-(?P<shards>\d{5}))?(?P<half_after>\.fp16)?"
    r"\.(?P<format>safetensors|bin)"
)


@dataclass(frozen=True)
class Folder:
    """A model in diffusers' layout, `unet/`, `vae/` and so on.

    The empty part is the folder itself. Parts that are published in such folders in a layout of
    their authors become stock ones.

    Attributes:
        half: weights in half precision are preferred where there are both.
        hints: about a UNet in LDM's layout.
    """

    path: Path
    half: bool = False
    hints: Hints = Hints()
    kind = "a folder in diffusers' layout"

    @property
    def parts(self) -> list[str]:
        return [part for part in PARTS if self.has(part)]

    def has(self, part: str) -> bool:
        return bool(self._folders(part)) if part else (self.path / "config.json").is_file()

    def files(self, part: str) -> list[Path]:
        """The files that `read` reads, first the config.

        Raises:
            FileNotFoundError: there is no such part, or it has no config or not all weights.
        """
        folders = self._folders(part)
        if not folders:
            raise FileNotFoundError(
                f"{self.path} has no folder {part}/. Point the key to a model in diffusers layout."
            )
        config = folders[0] / CONFIGS.get(part, "config.json")
        if not config.is_file():
            raise FileNotFoundError(
                f"{folders[0]} has no {config.name}. Point the key to a model in diffusers layout, "
                "or download the model again."
            )
        if part in CONFIGS:
            return [config]
        return [config, *(file for folder in folders for file in self._weight_files(folder))]

    def read(self, part: str) -> Part:
        """A part's config, and its weights memory-mapped where their format allows it.

        Raises:
            FileNotFoundError: as `files`.
            ValueError: a file is truncated, corrupt, or would run code.
        """
        config_file, *files = self.files(part)
        config = _read_json(config_file)
        weights: dict[str, dict[str, Tensor]] = {}
        for file in files:
            weights.setdefault(file.parent.name, {}).update(read_weights(file))
        own = weights.pop(config_file.parent.name, {})
        if part == "unet" and str(config.get("_class_name")).startswith(LDM_CLASS):
            # LDM writes -1 where the other one counts
            heads, width = (
                None if config.get(name) == -1 else config.get(name)
                for name in ("num_heads", "num_head_channels")
            )
            hints = replace(
                self.hints,
                num_heads=self.hints.num_heads or heads,
                head_dim=self.hints.head_dim or width,
            )
            path = config_file.parent
            return Checkpoint(path, sections_of(own, path), hints=hints).read("unet")
        if SIDE_FOLDERS.get(part) in weights:
            return _with_camera(config, own, weights[SIDE_FOLDERS[part]], self.path)
        if config_file.parent.name == SIDE_FOLDERS["cc_projection"]:
            own = {name.replace("proj.", "projection.", 1): tensor for name, tensor in own.items()}
            width, numbers = own["projection.weight"].shape
            config = {"in_channel": numbers, "out_channel": width}
        return config, own

    def _folders(self, part: str) -> list[Path]:
        folders = [self.path / name for name in folders_of(part)]
        folders = [folder for folder in folders if folder.is_dir()]
        return folders if part == "unet" else folders[:1]

    def _weight_files(self, folder: Path) -> list[Path]:
        try:
            names = choose_weights((file.name for file in folder.iterdir()), self.half)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder} holds {error}. Download it again.") from error
        if not names:
            raise FileNotFoundError(
                f"{folder} has no weights: none of diffusion_pytorch_model.safetensors, "
                "model.safetensors, their .fp16 variants, shards or .bin. Download the model again."
            )
        return [folder / name for name in names]


def folders_of(part: str) -> list[str]:
    """Where a part may lie: its own folder, and one that some repositories have for it."""
    return [part, *filter(None, [SIDE_FOLDERS.get(part)])]


def is_complete(folder: Path) -> bool:
    """Whether a part's folder, of which files may be missing, has all that it needs."""
    files = folder.iterdir() if folder.is_dir() else ()
    names = {file.name for file in files if file.is_file()}  # no broken links
    if folder.name.startswith("tokenizer"):
        return any(needed <= names for needed in TOKENIZERS)
    if folder.name in CONFIGS:
        return CONFIGS[folder.name] in names
    try:
        return "config.json" in names and bool(choose_weights(names, half=False))
    except FileNotFoundError:
        return False


def choose_weights(names: Iterable[str], half: bool) -> list[str]:
    """The files that together hold a model's weights, of all the names in its folder.

    diffusers' and transformers' names: one file or shards, plain or `.fp16`. safetensors go before
    pickles, then what is nearest in precision, then one file before shards.

    Args:
        half: the weights will be used in half precision.

    Returns:
        Names in order; none if there are no weights.

    Raises:
        FileNotFoundError: shards are missing, and nothing else is complete.
    """
    groups: dict[tuple[bool, bool, int], list[str]] = {}  # the best is the least
    for name in sorted(names):
        if match := WEIGHT_FILE.fullmatch(name):
            is_half = bool(match["half"] or match["half_after"])
            rank = (match["format"] != "safetensors", is_half != half, int(match["shards"] or 0))
            groups.setdefault(rank, []).append(name)
    complete = [rank for rank in groups if len(groups[rank]) == (rank[-1] or 1)]
    if groups and not complete:
        found = [
            f"{len(files)} of the {n} shards of {files[0]}" for (*_, n), files in groups.items()
        ]
        raise FileNotFoundError(f"only {', '.join(sorted(found))}")
    return groups[min(complete)] if complete else []


def _with_camera(
    config: dict[str, Any], weights: dict[str, Tensor], camera: dict[str, Tensor], folder: Path
) -> Part:
    """A stock UNet with MVDream's camera embedding as its class embedding.

    Both are a linear layer, SiLU and a linear layer, and are added to the time embedding.
    """
    if "linear_1.weight" not in camera:
        raise ValueError(
            f"{folder / SIDE_FOLDERS['unet']} is no camera embedding of two linear layers: it has "
            "no linear_1.weight. Download the folder again, or use MVDream's original file."
        )
    config = config | {
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": camera["linear_1.weight"].shape[1],
    }
    return config, weights | {f"class_embedding.{name}": t for name, t in camera.items()}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is no JSON ({error}). Download it again.") from error
