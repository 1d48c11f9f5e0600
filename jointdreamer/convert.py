"""`jointdreamer convert`: a published model, once, to a folder that loads fast and safely."""

import argparse
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from threestudio_jointdreamer.weights.ldm.checkpoint import Hints
    from threestudio_jointdreamer.weights.models import NamedModel
    from torch import nn

KEY = "SOURCE"  # how errors call the command's argument
PROVENANCE = "provenance.json"
MODELS = ("unet", "transformer", "vae", "image_encoder", "cc_projection", "mv_adapter")
CONFIGS = {
    "scheduler": "scheduler_config.json",
    "feature_extractor": "preprocessor_config.json",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write a published model as a clean folder of half-precision safetensors."
    parser.epilog = (
        "SOURCE may be a checkpoint of MVDream, ImageDream, Stable Diffusion 1 or 2, Zero-1-to-3, "
        "MV-Adapter or DINO (.pt, .ckpt, .pth, .safetensors), a folder in diffusers layout, or the "
        "name of either on the Hugging Face hub. Nothing that a file holds is run."
    )
    parser.add_argument("source", metavar="SOURCE", help="file, folder or hub name")
    parser.add_argument("target", metavar="TARGET", type=Path, help="the folder to make")
    parser.add_argument(
        "--prediction-type",
        choices=("epsilon", "v_prediction"),
        help="of a Stable Diffusion 2 checkpoint: epsilon (512-base) or v_prediction (768)",
    )
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier conversion")
    parser.add_argument(
        "--no-ema",
        dest="ema",
        action="store_false",
        help="take the UNet's plain weights where a checkpoint also has averaged ones",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    import torch
    from threestudio_jointdreamer.weights.ldm.checkpoint import Hints

    hints = Hints(prediction_type=args.prediction_type, ema=args.ema)
    dtype = getattr(torch, args.dtype)
    provenance = convert(args.source, args.target, dtype, hints, args.overwrite)
    parts = ", ".join(provenance["parts"]) or "the model"
    print(f"{args.source} is {provenance['recognised_as']}; {args.target} holds {parts}.")
    if left_out := provenance.get("left_out"):
        print("Left out: " + ", ".join(f"{name} ({n} tensors)" for name, n in left_out.items()))


def convert(
    name_or_path: str,
    target: str | Path,
    dtype: "torch.dtype | None" = None,
    hints: "Hints | None" = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a model as a folder in diffusers' layout, complete or not at all.

    What was written is loaded back by the product's own loader and compared, number by number.

    Args:
        name_or_path: a checkpoint file, a folder, or the name of either on the hub.
        target: the folder to make. It also gets a provenance.json: what it was made from.
        dtype: float16 by default.
        overwrite: replace `target`, if an earlier conversion made it.

    Returns:
        What provenance.json says.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: it is damaged, of no known kind, or does not fit `dtype`; or `target` exists.
        OSError: the disk is full.
    """
    import torch
    from threestudio_jointdreamer.files import replacing_folder
    from threestudio_jointdreamer.priors.loading import load_schedule
    from threestudio_jointdreamer.weights.files import sha256_of
    from threestudio_jointdreamer.weights.models import open_model

    from . import __version__
    from .progress import progress, track

    target, dtype = Path(target).expanduser(), dtype or torch.float16
    earlier = (target / PROVENANCE).is_file()
    if overwrite and target.is_dir() and any(target.iterdir()) and not earlier:
        raise ValueError(
            f"TARGET={target} was not made by jointdreamer convert (it has no {PROVENANCE}), so it "
            "is not overwritten: choose another name, or remove it yourself."
        )
    with replacing_folder(target, overwrite) as folder:
        model = open_model(name_or_path, KEY, hints=hints)
        source = model.files
        if source.path.is_dir() and hints is not None and hints.prediction_type is not None:
            raise ValueError(
                "--prediction-type is for checkpoint files: what the model in "
                f"{source.path} predicts is said by its scheduler/scheduler_config.json."
            )
        whole = ("",) if source.path.is_file() and model.has("") else ()
        models = [part for part in (*MODELS, *whole) if model.has(part)]
        if not models:
            raise ValueError(
                f"{model.described}: {source.path} has none of the folders {', '.join(MODELS)}. "
                "Give a checkpoint file, or a model's folder in diffusers layout."
            )
        configs = [part for part in CONFIGS if model.has(part)]
        with progress("converting", len(models)) as advance:
            for part in models:
                config = _write(model, part, folder, dtype)
                if part == "image_encoder" and "feature_extractor" not in configs:
                    _write_feature_extractor(folder, config["image_size"])
                advance(note=part)
        for part in configs:
            _write_json(folder / part / CONFIGS[part], _config(model, part))
        if "scheduler" in configs:
            load_schedule(str(folder), KEY)
        files = dict.fromkeys(file for part in models + configs for file in source.files(part))
        provenance = {
            "source": str(name_or_path),
            "recognised_as": source.kind,
            "files": [
                {"name": file.name, "bytes": file.stat().st_size, "sha256": sha256_of(file)}
                for file in track(list(files), "hashing the source")
            ],
            "parts": sorted(path.name for path in folder.iterdir() if path.is_dir()),
            "dtype": str(dtype).removeprefix("torch."),
            **_notes(source),
            "tool": f"threestudio-jointdreamer {__version__}",
            "written_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        _write_json(folder / PROVENANCE, provenance)
    return provenance


def _write(model: "NamedModel", part: str, folder: Path, dtype: "torch.dtype") -> dict[str, Any]:
    """Writes one part, reads it back, and returns its config."""
    import torch
    from threestudio_jointdreamer.priors.loading import load_model

    config, weights = model.read(part)
    arguments = {} if part else {"add_pooling_layer": False}  # of DINO's ViT
    cpu = torch.device("cpu")
    model_class = _class_of(part, config, weights)
    made = model.load(model_class, part, cpu, dtype, (config, weights), **arguments)
    state = made.state_dict()
    infinite = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if infinite:
        raise ValueError(
            f"SOURCE: {part or 'its model'} holds numbers that are not finite as {dtype}: "
            f"{', '.join(infinite[:5])}. Use --dtype float32; if that fails too, download it again."
        )
    made.save_pretrained(folder / part, max_shard_size="100GB")
    back = load_model(type(made), str(folder), part, cpu, dtype, KEY, **arguments).state_dict()
    if any(not torch.equal(tensor, back[name]) for name, tensor in state.items()):
        raise OSError(f"What was written of {part} reads back differently: the disk fails.")
    return config


def _write_feature_extractor(folder: Path, size: int) -> None:
    from threestudio_jointdreamer.weights.assembling import without_reports
    from transformers import CLIPImageProcessor

    square = {"height": size, "width": size}
    with without_reports():
        processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size=square)
    processor.save_pretrained(folder / "feature_extractor")


def _class_of(part: str, config: dict[str, Any], weights: dict[str, Any]) -> "type[nn.Module]":
    from diffusers import AutoencoderKL, SD3Transformer2DModel
    from threestudio_jointdreamer.priors import (
        mv_adapter,
        wonder3d,  # noqa: F401 - makes its kind known
        zero123,
    )
    from threestudio_jointdreamer.priors.image_prior import KINDS
    from threestudio_jointdreamer.priors.imagedream import image_encoder_class
    from threestudio_jointdreamer.priors.imagedream_unet import multiview_unet_class
    from transformers import ViTModel

    if part == "unet":
        kinds = (kind.unet_class for kind in KINDS if kind.recognises(config))
        return next(kinds, multiview_unet_class(config))
    return {
        "transformer": SD3Transformer2DModel,
        "vae": AutoencoderKL,
        "image_encoder": image_encoder_class(weights),
        "cc_projection": zero123.CCProjection,
        "mv_adapter": mv_adapter.MVAdapter,
        "": ViTModel,
    }[part]


def _config(model: "NamedModel", part: str) -> dict[str, Any]:
    """What a part without weights says; of a checkpoint's schedule, diffusers' whole config."""
    from diffusers import DDIMScheduler

    config, _ = model.read(part)
    if model.files.path.is_file():
        return json.loads(DDIMScheduler.from_config(config).to_json_string())
    return config


def _notes(source: Any) -> dict[str, Any]:
    """What provenance.json says of a checkpoint in LDM's layout only."""
    if not hasattr(source, "left_out") or source.has(""):
        return {}
    weights = "averaged (EMA)" if source.averaged else "as they are"
    return {"unet_weights": weights, "left_out": dict(source.left_out)}


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n")
