"""`jointdreamer doctor`: what is installed, and whether the models of a config are here."""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

GIB = 2**30
LIBRARIES = (
    *("threestudio-jointdreamer", "torch", "diffusers", "transformers", "huggingface_hub"),
    *("safetensors", "pytorch-lightning", "nerfacc"),
)
PARTS = {  # that a class must find; others are opened with all that they have
    "jsd-guidance": ("unet", "vae", "scheduler"),
    "stable-diffusion-guidance": ("unet", "vae", "scheduler"),
    "jointdreamer-prompt-processor": ("tokenizer", "text_encoder"),
    "stable-diffusion-prompt-processor": ("tokenizer", "text_encoder"),
}
# what `import threestudio` imports, see docs/threestudio.md
OF_THREESTUDIO = (
    *("torchvision", "nerfacc", "tinycudann", "nvdiffrast.torch", "envlight", "igl", "cv2"),
    *("controlnet_aux", "wandb", "typeguard", "xatlas", "mcubes", "einops", "accelerate"),
    *("scipy", "IPython", "threestudio"),
)
PROBE = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
for module in sys.argv[1:]:
    print(json.dumps([module, "importing it ends Python"]), flush=True)
    try:
        importlib.import_module(module)
        error = ""
    except BaseException as raised:
        error = f"{type(raised).__name__}: {raised}"
    print(json.dumps([module, " ".join(error.split())]), flush=True)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Say what is installed and, with a config, whether the models it names are here."
    )
    parser.epilog = (
        "Further KEY=VALUE arguments change the config. The exit status is 0 if all is "
        "well, 1 if something that the config needs is not here, 2 after a mistake."
    )
    parser.add_argument("config", type=Path, nargs="?", help="a YAML config")
    parser.add_argument(
        "--threestudio",
        type=Path,
        metavar="PATH",
        help="a checkout of threestudio; default: THREESTUDIO_ROOT, or the folder this starts in",
    )
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.set_defaults(run=doctor, takes_overrides=True)


def doctor(args: argparse.Namespace) -> int:
    """Prints the report.

    Returns:
        0, or 1 if there are problems.

    Raises:
        FileNotFoundError, ValueError: there is no such config or checkout, or it is none.
    """
    report: dict[str, Any] = {"installed": _installed(), "gpus": _gpus()}
    report["threestudio"] = _try_threestudio(args.threestudio)
    report["models"] = _models(args.config, args.overrides) if args.config else {}
    report["problems"] = [
        f"{name}: {state}"
        for group in ("threestudio", "models")
        for name, state in report[group].items()
        if state not in ("here", "in the cache")
    ]
    print(json.dumps(report, indent=2) if args.json else _text(report))
    return 1 if report["problems"] else 0


def _installed() -> dict[str, str]:
    """Versions, and what speeds runs up or is needed by some configs, in a few words each."""
    import threestudio
    import tinycudann
    import torch

    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    cuda = f", built for CUDA {torch.version.cuda}" if torch.version.cuda else ", without CUDA"
    found["torch"] = torch.__version__ + cuda
    # of threestudio's own models the stand-in has only those that our configs name
    whole = _exists("threestudio.models.guidance")
    why_not = getattr(tinycudann, "why_not_other", None) or "not installed"
    in_pytorch = hasattr(tinycudann, "why_not_other")
    cache = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache")
    nerfacc = _exists("nerfacc.csrc") or any(cache.glob("**/nerfacc_cuda*.so"))
    without = "compiled at its first use" if shutil.which("nvcc") else "not there, and no nvcc"
    return found | {
        "threestudio": str(Path(threestudio.__file__).parent) if whole else "stood in for",
        "tiny-cuda-nn": f"in PyTorch ({why_not})" if in_pytorch else "there",
        "nerfacc's CUDA": "there" if nerfacc else without,
        "nvdiffrast": "there" if _exists("nvdiffrast") else "not there",
    }


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _gpus() -> list[str]:
    import torch

    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        f"{gpu.name}, {gpu.total_memory / GIB:.1f} GiB, {torch.cuda.mem_get_info(i)[0] / GIB:.1f} "
        f"free, compute capability {gpu.major}.{gpu.minor}"
        for i, gpu in enumerate(gpus)
    ]


def _try_threestudio(named: Path | None) -> dict[str, str]:
    """For each module that a checkout of threestudio imports `here`, or why it cannot be."""
    if named is not None and not (named / "threestudio" / "__init__.py").is_file():
        raise ValueError(f"--threestudio {named} holds no threestudio/__init__.py: check the path.")
    root = os.environ.get("THREESTUDIO_ROOT")
    folders = [Path(folder) for folder in (named, root, ".") if folder]
    checkout = next((f for f in folders if (f / "threestudio" / "__init__.py").is_file()), None)
    if checkout is None:
        return {}
    path = [str(checkout.resolve()), os.environ.get("PYTHONPATH")]
    if named is None and root:  # our launcher provides tinycudann
        path.insert(1, str(Path(importlib.util.find_spec("tinycudann").origin).parents[1]))
    printed = subprocess.run(
        [sys.executable, "-c", PROBE, *OF_THREESTUDIO],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
    ).stdout
    errors = dict(json.loads(line) for line in printed.splitlines() if line.startswith('["'))
    remedy = "; docs/threestudio.md says how to install it"
    return {
        module: f"{error}{remedy}" if error else "here"
        for module in OF_THREESTUDIO
        for error in [errors.get(module, "not tried")]
    }


def _models(path: Path, overrides: list[str]) -> dict[str, str]:
    """For each model that a config names `here`, `in the cache`, or what is wrong with it."""
    from omegaconf import OmegaConf
    from threestudio_jointdreamer.weights.names import find_here, find_local, parse_hub_name

    from .download import backbone_of, find_class, model_names, types_in
    from .experiment import read_experiment

    cfg = read_experiment(path, overrides)
    found = {
        f"{key}={name!r}": "not registered in this host: check the name, or run with a threestudio "
        "that has it (THREESTUDIO_ROOT)"
        for key, name in types_in(OmegaConf.to_container(cfg, resolve=False))
        if find_class(name) is None
    }
    models = model_names(cfg)
    for model in models:
        described = f"{model.key}={model.name!r}"
        parts = PARTS.get(model.owner, ())
        try:
            source = find_here(model.name, parts)
            if source is None:
                parse_hub_name(model.name, model.key)
                command = shlex.join(["jointdreamer", "download", str(path), *overrides])
                found[described] = f"not here yet: run {command}"
                continue
            _open(source, parts, model.half, described)
            found[described] = "here" if find_local(model.name) else "in the cache"
            models += backbone_of(model, source)
        except (OSError, ValueError) as error:
            found[described] = " ".join(str(error).split()).removeprefix(f"{described}: ")
    return found


def _open(source: Path, parts: tuple[str, ...], half: bool, described: str) -> None:
    """Opens what a run would open; raises as it would."""
    from threestudio_jointdreamer.prompts.text_encoder import tokenizer_of
    from threestudio_jointdreamer.weights.models import NamedModel, open_files

    model = NamedModel(described, open_files(source, half))
    for part in parts or model.files.parts:
        tokenizer_of(model) if part == "tokenizer" else model.read(part)
    if not parts and not model.files.parts:
        raise FileNotFoundError(f"{source} is no model in diffusers layout: it has no unet/ or so.")


def _text(report: dict[str, Any]) -> str:
    groups = {
        "Installed": report["installed"],
        "GPUs": dict(enumerate(report["gpus"])) or {"none": "runs take place on the CPU, in fp32"},
        "What threestudio imports": report["threestudio"],
        "Models": report["models"],
    }
    lines = []
    for title, rows in groups.items():
        lines += [title, *(f"  {name!s:<26} {text}" for name, text in rows.items())] if rows else []
    lines += [f"Problem: {problem}" for problem in report["problems"]] or ["Nothing is missing."]
    return "\n".join(lines)
