"""Turns a model, as it was published, into a clean folder: stock layout, safetensors, one dtype."""

import importlib.metadata
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from threestudio_jointdreamer.priors import dino, wonder3d, zero123  # noqa: F401 - makes their kinds known
from threestudio_jointdreamer.priors.image_prior import KINDS
from threestudio_jointdreamer.priors.loading import has_part, load_model, load_schedule, locate
from threestudio_jointdreamer.weights.assembling import assemble
from threestudio_jointdreamer.weights.files import read_weights, replacing_folder, sha256_of
from threestudio_jointdreamer.weights.folders import find_weights, place
from threestudio_jointdreamer.weights.ldm.checkpoint import Checkpoint, sort_weights
from threestudio_jointdreamer.weights.ldm.clip import preprocessor_config
from threestudio_jointdreamer.weights.ldm.folders import SIDE_FOLDERS
from threestudio_jointdreamer.weights.ldm.reading import (
    Hints,
    available_parts,
    convert_part,
    is_original,
    read_original,
)
from threestudio_jointdreamer.weights.progress import bytes_bar
from threestudio_jointdreamer.weights.state_dicts import some
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection, ViTModel

KEY = "SOURCE"  # how errors call the command's argument
PROVENANCE = "provenance.json"
CPU = torch.device("cpu")
CLASSES = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "image_encoder": CLIPVisionModelWithProjection,
    "cc_projection": zero123.CCProjection,
}
EXTRAS = ("feature_extractor",)  # parts without weights that are copied as they are


@dataclass(frozen=True)
class Part:
    """One model of the folder to be.

    Attributes:
        build: makes it in a dtype, on the CPU.
        n_parameters: about how many, for the progress bar.
        arguments: of the class, that loading it back needs.
    """

    build: Callable[[torch.dtype], nn.Module]
    n_parameters: int
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A model as it was published.

    Attributes:
        recognised: what it is.
        files: all that it is read from.
        parts: its models by their folders' names; the empty name is the folder itself.
        configs: files without weights, by their path in the folder to be, and what they say.
        notes: what else the provenance should tell.
    """

    recognised: str
    files: list[Path]
    parts: dict[str, Part]
    configs: dict[str, dict[str, Any]]
    notes: dict[str, Any] = field(default_factory=dict)


def convert(
    name_or_path: str,
    target: str | Path,
    dtype: torch.dtype = torch.float16,
    hints: Hints | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a model as a folder in diffusers' layout, whole or not at all.

    What was written is loaded back by the product's own loader and compared, number by number.

    Args:
        name_or_path: a checkpoint file, a folder, or the name of either on the hub.
        target: the folder to make. It also gets a provenance.json: what it was made from.
        overwrite: replace `target`, if an earlier conversion made it.

    Returns:
        What provenance.json says.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: it is damaged, of no known kind, or does not fit `dtype`; or `target` exists.
        OSError: the disk is full.
    """
    target = Path(target).expanduser()
    _check_target(target, overwrite)
    source = _take_apart(name_or_path, hints or Hints())
    with bytes_bar(sum(f.stat().st_size for f in source.files), "Reading") as advance:
        files = [
            {"name": file.name, "bytes": file.stat().st_size, "sha256": sha256_of(file, advance)}
            for file in source.files
        ]
    provenance = {
        "source": str(name_or_path),
        "recognised_as": source.recognised,
        "files": files,
        "parts": sorted({*source.parts, *(Path(c).parent.name for c in source.configs)} - {""}),
        "dtype": str(dtype).removeprefix("torch."),
        **source.notes,
        "tool": f"threestudio-jointdreamer {_version()}",
        "written_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with replacing_folder(target, overwrite) as folder:
        _write_models(source, folder, dtype)
        for path, content in {**source.configs, PROVENANCE: provenance}.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(json.dumps(content, indent=2) + "\n")
        if "scheduler" in provenance["parts"]:
            load_schedule(str(folder), KEY)
    return provenance


def _check_target(target: Path, overwrite: bool) -> None:
    """Asks before the work, not after it; and never lets a folder go that is no conversion."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if target.is_file():
        raise ValueError(f"TARGET={target} is a file: give the name of a folder to make.")
    if not overwrite:
        raise ValueError(f"TARGET={target} exists already: choose another name, or --overwrite.")
    if not (target / PROVENANCE).is_file():
        raise ValueError(
            f"TARGET={target} was not made by jointdreamer convert (it has no {PROVENANCE}), so it "
            "is not overwritten: choose another name, or remove it yourself."
        )


def _write_models(source: Source, folder: Path, dtype: torch.dtype) -> None:
    with bytes_bar(_size(source, dtype), "Writing") as advance:
        for name, part in source.parts.items():
            half = part.n_parameters * dtype.itemsize // 2
            model = part.build(dtype)
            _check_finite(model, name, dtype)
            model.save_pretrained(folder / name, max_shard_size="100GB")
            advance(half)
            back = load_model(
                type(model), str(folder), name, CPU, dtype, KEY, **part.arguments
            ).state_dict()
            different = [k for k, v in model.state_dict().items() if not torch.equal(v, back[k])]
            if different:
                raise OSError(f"What was written of {name} reads back differently: the disk fails.")
            advance(half)


def _size(source: Source, dtype: torch.dtype) -> int:
    return sum(2 * (part.n_parameters * dtype.itemsize // 2) for part in source.parts.values())


def _check_finite(model: nn.Module, name: str, dtype: torch.dtype) -> None:
    bad = [key for key, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if bad:
        raise ValueError(
            f"SOURCE: {name or 'its model'} holds numbers that are not finite as {dtype}: "
            f"{some(bad)}. Use --dtype float32; if that fails too, download it again."
        )


def _take_apart(name_or_path: str, hints: Hints) -> Source:
    source = locate(name_or_path, "unet", KEY, half=False)
    if source.is_dir():
        return _folder(name_or_path, source, hints)
    weights = read_weights(source)
    if dino.is_original(weights):
        return _dino(source, weights)
    return _checkpoint(sort_weights(weights, source, hints.ema), hints)


def _checkpoint(checkpoint: Checkpoint, hints: Hints) -> Source:
    parts, configs = {}, {}
    for name in available_parts(checkpoint):
        if name == "scheduler":
            config, _ = convert_part(checkpoint, name, hints)
            configs["scheduler/scheduler_config.json"] = _full_schedule(config)
        else:
            parts[name] = _original_part(checkpoint, name, hints)
    if "image_encoder" in parts:
        config, _ = convert_part(checkpoint, "image_encoder", hints)
        configs["feature_extractor/preprocessor_config.json"] = preprocessor_config(config)
    notes = {
        "unet_weights": "averaged (EMA)" if checkpoint.averaged else "as they are",
        "left_out": dict(checkpoint.leftovers),
    }
    return Source(checkpoint.described, [checkpoint.source], parts, configs, notes)


def _original_part(checkpoint: Checkpoint, name: str, hints: Hints) -> Part:
    def build(dtype: torch.dtype) -> nn.Module:
        config, tensors = convert_part(checkpoint, name, hints)
        return assemble(CLASSES[name], config, place(tensors, CPU, dtype)).eval()

    return Part(build, _count(checkpoint.parts[name].values()))


def _folder(name_or_path: str, root: Path, hints: Hints) -> Source:
    if hints.prediction_type is not None:
        raise ValueError(
            f"--prediction-type is for checkpoint files: what the model in {root} predicts is said "
            "by its scheduler/scheduler_config.json."
        )
    for side in SIDE_FOLDERS.values():
        if has_part(name_or_path, side, KEY):
            locate(name_or_path, side, KEY)  # fetches it, if it is on the hub
    parts, files, recognised = {}, [], "a folder in diffusers' layout"
    for name in CLASSES:
        if is_original(root, name):
            folders = (root / name, root / SIDE_FOLDERS.get(name, name))
            part_files = sorted({f for folder in folders for f in folder.glob("*") if f.is_file()})
            parts[name] = _published_part(root, name, part_files)
            files += part_files
            recognised = "a folder in diffusers' layout with a part of another"
        elif has_part(name_or_path, name, KEY):
            root = locate(name_or_path, name, KEY, half=False)
            part_files = find_weights(root / name, f"{KEY}={root / name}", half=False)
            parts[name] = _stock_part(name_or_path, root / name, part_files)
            files += [root / name / "config.json", *part_files]
    if not parts:
        raise ValueError(
            f"{KEY}={name_or_path!r}: {root} has none of the folders {', '.join(CLASSES)}. Give a "
            "checkpoint file, or a model's folder in diffusers layout."
        )
    configs = {}
    for name in ("scheduler", *EXTRAS):
        if has_part(name_or_path, name, KEY):
            folder = locate(name_or_path, name, KEY) / name
            for file in sorted(folder.glob("*config.json")):
                configs[f"{name}/{file.name}"] = json.loads(file.read_text())
                files.append(file)
    return Source(recognised, files, parts, configs)


def _published_part(root: Path, name: str, files: Iterable[Path]) -> Part:
    def build(dtype: torch.dtype) -> nn.Module:
        config, tensors = read_original(root, name)
        try:
            return assemble(CLASSES[name], config, place(tensors, CPU, dtype)).eval()
        except ValueError as error:
            raise ValueError(f"{root / name}: {error}") from error

    return Part(build, _count_in(files))


def _stock_part(name_or_path: str, folder: Path, files: Iterable[Path]) -> Part:
    config = json.loads((folder / "config.json").read_text())
    model_class = CLASSES[folder.name]
    if folder.name == "unet":
        kinds = (kind.unet_class for kind in KINDS if kind.recognises(config))
        model_class = next(kinds, model_class)
    return Part(
        lambda dtype: load_model(model_class, name_or_path, folder.name, CPU, dtype, KEY),
        _count_in(files),
    )


def _dino(path: Path, weights: dict[str, Tensor]) -> Source:
    def build(dtype: torch.dtype) -> nn.Module:
        try:
            config, tensors = dino.to_transformers(weights)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return assemble(ViTModel, config, place(tensors, CPU, dtype), **without_pooler).eval()

    without_pooler = {"add_pooling_layer": False}
    part = Part(build, _count(weights.values()), without_pooler)
    return Source("DINO's vision transformer", [path], {"": part}, {})


def _full_schedule(config: dict[str, Any]) -> dict[str, Any]:
    return json.loads(DDIMScheduler.from_config(config).to_json_string())


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _count_in(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files) // 4  # as if they were float32


def _version() -> str:
    try:
        return importlib.metadata.version("threestudio-jointdreamer")
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        return "of a checkout"
