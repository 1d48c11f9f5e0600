"""`jointdreamer convert`: a published checkpoint, once, to a folder that loads fast and safely."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write a published model as a clean folder of half-precision safetensors."
    parser.epilog = (
        "SOURCE may be a checkpoint of MVDream, Stable Diffusion 1 or 2, Zero-1-to-3 or "
        "DINO (.pt, .ckpt, .pth, .safetensors), a folder in diffusers layout, or the name of "
        "either on the Hugging Face hub. Nothing that a file holds is run."
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
    parser.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    import torch
    from threestudio_jointdreamer.weights.ldm.reading import Hints

    from .conversion import convert

    provenance = convert(
        args.source,
        args.target,
        getattr(torch, args.dtype),
        Hints(prediction_type=args.prediction_type, ema=args.ema),
        args.overwrite,
    )
    parts = ", ".join(provenance["parts"]) or "the model"
    print(f"{args.source} is {provenance['recognised_as']}; {args.target} holds {parts}.")
    if left_out := provenance.get("left_out"):
        print("Left out: " + ", ".join(f"{name} ({n} tensors)" for name, n in left_out.items()))
