"""`jointdreamer demo`: one prompt to a page with a turning mesh, its film, curves and numbers."""

import argparse
import hashlib
import json
import re
import shutil
import time
from pathlib import Path

from .paths import find_file
from .slugs import slug

PROMPT = "a green bear wearing a red hat and a blue backpack"
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


def demo(args: argparse.Namespace) -> None:
    """Trains or continues, tests, exports, and prints where everything is.

    Raises:
        FileNotFoundError: no such config.
        ValueError: an empty prompt, or a folder that holds a run with other settings.
    """
    from .host.ownership import locked
    from .runs import CHECKPOINT

    begin = time.monotonic()
    if not re.search(r"[^\W_]", args.prompt):
        raise ValueError(f"--prompt {args.prompt!r} has no words: describe the creature.")
    config = find_file(args.config, "--config")
    folder = args.out / "demo" / slug(args.prompt)
    checkpoint = folder / CHECKPOINT
    command = ["--config", str(config), "--gpu", args.gpu, *["--verbose"] * args.verbose]
    command += [f"exp_root_dir={_quoted(args.out)}", "name=demo", f"tag={_quoted(folder.name)}"]
    command += ["use_timestamp=false", f"system.prompt_processor.prompt={_quoted(args.prompt)}"]
    command += args.overrides

    digest = hashlib.sha256(config.read_bytes()).hexdigest()
    settings = {"prompt": args.prompt, "config": digest, "overrides": args.overrides}
    with locked(folder):
        _run(command, folder, checkpoint, settings, args.fresh)
        _show_results(folder)
    print(f"  {time.monotonic() - begin:.0f} seconds{_peak_memory(folder)}")


def _run(command: list[str], folder: Path, checkpoint: Path, settings: dict, fresh: bool) -> None:
    """Trains or goes on, and exports; nothing stays of a start that came to no checkpoint."""
    from .host.launcher import run  # needs the extension

    resume = [f"resume={_quoted(checkpoint)}"]
    goes_on = _prepare(folder, checkpoint, settings, fresh)
    try:
        run([*command, "--train", *(resume if goes_on else [])])
    except BaseException:
        if not checkpoint.is_file():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    run([*command, "--export", *resume])


def _quoted(text: object) -> str:
    """A value of an override that YAML reads as this very string."""
    return json.dumps(str(text), ensure_ascii=False)


def _prepare(folder: Path, checkpoint: Path, settings: dict, fresh: bool) -> bool:
    """Leaves an interrupted run with these very settings, or one about to start; True: the first.

    Raises:
        ValueError: `folder` holds a run with other settings.
    """
    from threestudio_jointdreamer.files import replacing

    from .host.ownership import LOCK

    note = folder / SETTINGS
    if fresh or note.is_file() and not checkpoint.is_file():
        for path in folder.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) != settings:
        raise ValueError(
            f"{folder} holds a run of this prompt with another config or other overrides. "
            "Add --fresh to replace it, or --out for another folder."
        )
    with replacing(note) as new:
        new.write_text(json.dumps(settings), encoding="utf-8")
    if goes_on := checkpoint.is_file():
        print(f"Continuing {folder} (--fresh starts over).")
    return goes_on


def _show_results(folder: Path) -> None:
    """Gives the results plain names in the run's folder, and prints these."""
    from threestudio_jointdreamer.files import replacing

    from .page import CURVES, write_page
    from .runs import Run

    run = Run(folder)
    export = run.newest("export")
    mesh = next(iter(sorted(export.glob("*.glb"))), None)
    if mesh is None:
        raise FileNotFoundError(
            f"{export} holds no .glb. The demo needs system.exporter.fmt=glb in its config."
        )
    sources = {
        "turntable.mp4": run.newest("test.mp4"),
        "contact_sheet.png": run.newest("test-contact-sheet.png"),
        "asset.glb": mesh,
    }
    for name, source in sources.items():
        with replacing(folder / name) as new:
            shutil.copy(source, new)
    page = write_page(folder)
    print()
    for name in filter(lambda name: (folder / name).is_file(), [*sources, CURVES, page.name]):
        print(f"  {name.partition('.')[0].replace('_', ' '):<14} {folder / name}")
    print(f"\nOpen {page.resolve().as_uri()} in a browser.")


def _peak_memory(folder: Path) -> str:
    """Of this run, and of the GPU if it used one."""
    from .host.metrics import FILE

    metrics = json.loads((folder / FILE).read_text(encoding="utf-8"))
    peaks = {"peak memory": metrics["peak_host_gib"], "GPU": metrics["peak_gpu_gib"]}
    return "".join(f", {name} {gib:.1f} GiB" for name, gib in peaks.items() if gib is not None)
