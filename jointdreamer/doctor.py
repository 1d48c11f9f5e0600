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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import __version__

GIB = 2**30
LIBRARIES = (
    *("torch", "diffusers", "transformers", "huggingface_hub", "safetensors"),
    *("pytorch-lightning", "nerfacc"),
)
PARTS = {  # that a class must find; others are opened with all that they have
    "jsd-guidance": ("unet", "vae", "scheduler"),
    "stable-diffusion-guidance": ("unet", "vae", "scheduler"),
    "jointdreamer-prompt-processor": ("tokenizer", "text_encoder"),
    "stable-diffusion-prompt-processor": ("tokenizer", "text_encoder"),
}
ENCODERS = ("tokenizer_", "text_encoder_")  # of SDXL and Stable Diffusion 3
# what `import threestudio` imports, see docs/threestudio.md
OF_THREESTUDIO = (
    *("torchvision", "nerfacc", "tinycudann", "nvdiffrast.torch", "envlight", "igl", "cv2"),
    *("controlnet_aux", "wandb", "typeguard", "xatlas", "mcubes", "einops", "accelerate"),
    *("scipy", "IPython", "threestudio"),
)
# an import whose error is one line, the last on standard error
PROBE = (
    "import sys; sys.excepthook = lambda kind, error, _: print(kind.__name__ + ':', "
    "*str(error).split(), file=sys.stderr); import {}"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Say what is installed and, with a config, whether the models it names are here."
    )
    parser.epilog = (
        "Further KEY=VALUE arguments change the config. The exit status is 0 if all is "
        "well, 1 if something that the config needs is not here, 2 after a mistake."
    )
    parser.add_argument("config", type=Path, nargs="?", help="a YAML config")
    text = "a checkout of threestudio; default: THREESTUDIO_ROOT, or the folder this starts in"
    parser.add_argument("--threestudio", type=Path, metavar="PATH", help=text)
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.set_defaults(run=doctor, takes_overrides=True)


def doctor(args: argparse.Namespace) -> int:
    """Prints the report.

    Returns:
        0, or 1 if there are problems.

    Raises:
        FileNotFoundError, ValueError: there is no such config or checkout, or it is none.
    """
    installed, gpus, tried = _installed(), _gpus(), _try_threestudio(args.threestudio)
    models = _models(args.config, args.overrides) if args.config else {}
    problems = [
        f"{name}: {state}"
        for name, state in (tried | models).items()
        if state not in ("here", "in the cache")
    ]
    if args.json:
        report = {"installed": installed, "gpus": gpus, "threestudio": tried}
        print(json.dumps({**report, "models": models, "problems": problems}, indent=2))
        return 1 if problems else 0
    gpus = dict(enumerate(gpus)) or {"none": "runs take place on the CPU, in fp32"}
    groups = {"Installed": installed, "GPUs": gpus, "What threestudio imports": tried}
    for title, rows in {**groups, "Models": models}.items():
        if rows:
            print(title, *(f"  {name!s:<26} {text}" for name, text in rows.items()), sep="\n")
    for line in [f"Problem: {problem}" for problem in problems] or ["Nothing is missing."]:
        print(line)
    return 1 if problems else 0


def _installed() -> dict[str, str]:
    """Versions, and what speeds runs up or is needed by some configs, in a few words each."""
    import threestudio
    import tinycudann
    import torch

    cuda = f", built for CUDA {torch.version.cuda}" if torch.version.cuda else ", without CUDA"
    # of threestudio's own models the stand-in has only those that our configs name
    whole = _exists("threestudio.models.guidance")
    ours = hasattr(tinycudann, "why_not_other")
    why_ours = getattr(tinycudann, "why_not_other", None) or "not installed"
    cache = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache")
    nerfacc = _exists("nerfacc.csrc") or any(cache.glob("**/nerfacc_cuda*.so"))
    without = "compiled at its first use" if shutil.which("nvcc") else "not there, and no nvcc"
    return {
        "python": platform.python_version(),
        "threestudio-jointdreamer": __version__,
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "torch": torch.__version__ + cuda,
        "threestudio": str(Path(threestudio.__file__).parent) if whole else "stood in for",
        "tiny-cuda-nn": f"in PyTorch ({why_ours})" if ours else "there",
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
    root = os.environ.get("THREESTUDIO_ROOT")
    checkout = named or Path(root or ".")
    if not (checkout / "threestudio" / "__init__.py").is_file():
        if named is None:
            return {}
        raise ValueError(f"--threestudio {named} holds no threestudio/__init__.py: check the path.")
    path = [str(checkout.resolve()), os.environ.get("PYTHONPATH")]
    if named is None and root:  # our launcher provides tinycudann
        path.insert(1, str(Path(importlib.util.find_spec("tinycudann").origin).parents[1]))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}

    def state(module: str) -> str:
        command = [sys.executable, "-c", PROBE.format(module)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=checkout, env=environment
        )
        if done.returncode == 0:
            return "here"
        said = done.stderr.strip().splitlines()[-1:] or ["importing it ends Python"]
        return f"{said[0]}; docs/threestudio.md says how to install it"

    with ThreadPoolExecutor(4) as executor:
        return dict(zip(OF_THREESTUDIO, executor.map(state, OF_THREESTUDIO), strict=True))


def _models(path: Path, overrides: list[str]) -> dict[str, str]:
    """For each model that a config names `here`, `in the cache`, or what is wrong with it."""
    from omegaconf import OmegaConf
    from threestudio_jointdreamer.prompts.text_encoder import tokenizer_of
    from threestudio_jointdreamer.weights.models import NamedModel, open_files
    from threestudio_jointdreamer.weights.names import find_here, find_local, parse_hub_name

    from .download import backbone_of, blocks, find_class, model_names
    from .experiment import read_experiment

    cfg = read_experiment(path, overrides)
    found = {
        f"{key}_type={name!r}": "not registered in this host: check the name, or run with a "
        "threestudio that has it (THREESTUDIO_ROOT)"
        for key, name, given in blocks(OmegaConf.to_container(cfg, resolve=False))
        if name and given and find_class(name) is None
    }
    models = model_names(cfg)
    for model in models:
        described = f"{model.key}={model.name!r}"
        parts = PARTS.get(model.owner, ())
        flows = tuple(
            part.replace("unet", "transformer") for part in parts
        )  # of Stable Diffusion 3
        try:
            source = find_here(model.name, parts) or find_here(model.name, flows)
            if source is None:
                parse_hub_name(model.name, model.key)
                command = shlex.join(["jointdreamer", "download", str(path), *overrides])
                found[described] = f"not here yet: run {command}"
                continue
            opened = NamedModel(described, open_files(source, model.half))
            if opened.has("transformer") and not opened.has("unet"):
                parts = flows
            if "text_encoder" in parts:
                parts += tuple(part for part in opened.files.parts if part.startswith(ENCODERS))
            if not (parts := parts or opened.files.parts):
                raise FileNotFoundError(f"{source} has none of a model's folders, such as unet/.")
            for part in parts:
                if part.startswith("tokenizer"):
                    tokenizer_of(opened, part)
                else:
                    opened.read(part)
            found[described] = "here" if find_local(model.name) else "in the cache"
            models += backbone_of(model, source)
        except (OSError, ValueError) as error:
            found[described] = " ".join(str(error).split()).removeprefix(f"{described}: ")
    return found
