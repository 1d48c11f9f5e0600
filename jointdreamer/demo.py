"""`jointdreamer demo`: one prompt to a turntable, a contact sheet, a mesh and curves."""

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .paths import find_file

PROMPT = "a green bear wearing a red hat and a backpack"
CONFIG = Path("configs/tiny/jointdreamer.yaml")
SETTINGS = "demo.json"  # in the run's folder: what the run was started with


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Turn a prompt into a 3D asset; started again, it continues where it was interrupted."
    )
    parser.epilog = "Further KEY=VALUE arguments change the config, such as trainer.max_steps=200."
    parser.add_argument("--prompt", default=PROMPT, help="default: %(default)s")
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="default: %(default)s")
    parser.add_argument("--gpu", default="0", help="which GPU, if there is one")
    parser.add_argument("--fresh", action="store_true", help="start over, do not continue")
    parser.set_defaults(run=demo, takes_overrides=True)


@dataclass(frozen=True)
class Demo:
    """One prompt under one config, in a folder of its own."""

    prompt: str
    config: Path
    out: Path
    overrides: list[str]
    flags: list[str]

    @property
    def folder(self) -> Path:
        return self.out / "demo" / _slug(self.prompt)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "ckpts" / "last.ckpt"

    def settings(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.config.read_bytes()).hexdigest()
        return {"prompt": self.prompt, "config": digest, "overrides": self.overrides}

    def arguments(self, mode: str, *more: str) -> list[str]:
        """The command line of threestudio's launch.py for this run."""
        return [
            "--config",
            str(self.config),
            mode,
            *self.flags,
            f"exp_root_dir={_quoted(self.out)}",
            "name=demo",
            f"tag={_quoted(_slug(self.prompt))}",
            "use_timestamp=false",
            f"system.prompt_processor.prompt={_quoted(self.prompt)}",
            *self.overrides,
            *more,
        ]


def demo(args: argparse.Namespace) -> None:
    """Trains or continues, tests, exports, and prints where everything is.

    Raises:
        FileNotFoundError: no such config.
        ValueError: an empty prompt, or a folder that holds a run with other settings.
    """
    flags = ["--gpu", args.gpu, *(["--verbose"] if args.verbose else [])]
    this = Demo(args.prompt, find_file(args.config, "--config"), args.out, args.overrides, flags)
    started = time.monotonic()
    _prepare(this, args.fresh)
    from .host.launcher import run

    resume = [f"resume={_quoted(this.checkpoint)}"] if this.checkpoint.is_file() else []
    if resume:
        print(f"Continuing {this.folder} (--fresh starts over).")
    run(this.arguments("--train", *resume))
    run(this.arguments("--export", f"resume={_quoted(this.checkpoint)}"))
    _report(_collect(this.folder), time.monotonic() - started)


def _quoted(text: object) -> str:
    """A value of an override that YAML reads as this very string."""
    return json.dumps(str(text), ensure_ascii=False)


def _slug(prompt: str) -> str:
    """A folder name for a prompt; long ones keep their distinction through a hash."""
    name = re.sub(r"[^\w-]+", "_", prompt.strip().lower()).strip("_")
    if not name:
        raise ValueError(f"--prompt {prompt!r} has no words: describe the creature.")
    if len(name) > 80:
        name = f"{name[:70]}_{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
    return name


def _prepare(this: Demo, fresh: bool) -> None:
    """Leaves a folder that holds nothing, or an interrupted run with these very settings."""
    if fresh and this.folder.exists():
        shutil.rmtree(this.folder)
    note = this.folder / SETTINGS
    if note.is_file() and json.loads(note.read_text()) != this.settings():
        raise ValueError(
            f"{this.folder} holds a run of this prompt with another config or other overrides. "
            "Add --fresh to replace it, or --out for another folder."
        )
    this.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=this.folder, delete=False) as file:
        json.dump(this.settings(), file)
    os.replace(file.name, note)


def _collect(folder: Path) -> dict[str, Path]:
    """Gives the results plain names in the run's folder."""
    from .evaluation.curves import draw_curves
    from .runs import Run

    run = Run(folder)
    sources = {
        "turntable.mp4": run.newest("test.mp4"),
        "contact_sheet.png": run.newest("test-contact-sheet.png"),
        "asset.glb": _mesh(run.newest("export")),
    }
    for name, source in sources.items():
        with tempfile.TemporaryDirectory(dir=folder) as workplace:
            os.replace(shutil.copy(source, workplace), folder / name)
    draw_curves(run, folder / "curves.png")
    return {name: folder / name for name in (*sources, "curves.png")}


def _mesh(folder: Path) -> Path:
    found = next(iter(sorted(folder.glob("*.glb"))), None)
    if found is None:
        raise FileNotFoundError(
            f"{folder} holds no .glb. The demo needs system.exporter.fmt=glb in its config."
        )
    return found


def _report(results: dict[str, Path], seconds: float) -> None:
    print()
    for name, path in results.items():
        print(f"  {name.partition('.')[0].replace('_', ' '):<14} {path}")
    print(f"  {seconds:.0f} seconds, {_peak_memory()}")


def _peak_memory() -> str:
    """Of this process, and of the GPU if one was used."""
    import torch

    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    text = f"peak memory {peak:.1f} GiB"
    if torch.cuda.is_available():
        text += f", GPU {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return text
