"""`jointdreamer install`: the extension, its configs and load/ linked into a threestudio."""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CLONE = PACKAGE.parent
# where the installed tiny-cuda-nn is; status 1 if there is none that works here
PROBE = "import sys; sys.path.pop(0); import tinycudann; print(tinycudann.__file__)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Link the extension, its configs and load/ into a checkout of threestudio."
    parser.epilog = "Run again it links what is new and mends links. It overwrites nothing."
    parser.add_argument("--threestudio", type=Path, required=True, metavar="PATH", help="checkout")
    parser.add_argument("--uninstall", action="store_true", help="remove the links")
    parser.set_defaults(run=install)


def install(args: argparse.Namespace) -> None:
    """Makes, mends or removes the links, and prints what was done.

    Raises:
        ValueError: no checkout of a threestudio that fits, something is in a link's place, or no
            link can be made.
        OSError: something else cannot be written.
    """
    checkout = Path(os.path.abspath(args.threestudio))
    if not (checkout / "threestudio" / "__init__.py").is_file():
        raise ValueError(f"--threestudio {checkout} is no checkout of threestudio: check the path.")
    wanted = sources()
    before = our_links(checkout, wanted)
    if args.uninstall:
        wanted = {}
    else:
        _check_checkout(checkout)
        encodings = _installed_encodings(wanted["tinycudann"])
        if encodings is not None:
            del wanted["tinycudann"]
    in_the_way = [n for n in wanted if n not in before and os.path.lexists(checkout / n)]
    if in_the_way:
        raise ValueError(
            f"{checkout} already has {', '.join(in_the_way)}, where a link is to be: move it away "
            "or rename it. Nothing was changed."
        )
    for name in {**before, **wanted}:
        old, new = before.get(name), wanted.get(name)
        if old == new:
            continue
        if old is not None:
            (checkout / name).unlink()
        if new is not None:
            _link(checkout / name, new)
        print(f"{'removed' if new is None else 'mended' if old else 'linked':<8} {name}")
    _hide_from_git(checkout, wanted, {*wanted, *before})
    if args.uninstall:
        print(f"{checkout} has no link of ours{'' if before else ', and had none'}.")
        return
    print(f"{checkout} has all {len(wanted)} links.")
    print(f"encodings: {'in PyTorch' if encodings is None else f'tiny-cuda-nn at {encodings}'}")
    print(f"What threestudio itself needs: jointdreamer doctor --threestudio {checkout}")
    print(
        f"Try: cd {checkout} && python launch.py --config configs/tiny/jointdreamer.yaml --train "
        'system.prompt_processor.prompt="a red bear"'
    )


def sources() -> dict[str, Path]:
    """What each link points to, in our clone or installed packages, by its path in a checkout."""
    import threestudio_jointdreamer  # loads the host, so late

    extension = Path(threestudio_jointdreamer.__file__).resolve().parent
    in_clone = extension.is_relative_to(CLONE / "custom")
    configs = CLONE / "configs" if in_clone else PACKAGE / "configs"
    load = CLONE / "load" if in_clone else extension / "load"
    found = {"custom/threestudio-jointdreamer": extension}
    for path in sorted(configs.iterdir()):
        if path.suffix == ".yaml" or any(path.glob("*.yaml")):
            found[f"configs/{path.name}"] = path
    found |= {f"load/{name}": load / name for name in ("tiny", "prompts")}
    return found | {"tinycudann": PACKAGE / "standalone" / "tinycudann"}


def our_links(checkout: Path, wanted: dict[str, Path]) -> dict[str, Path]:
    """Where the links in a checkout lead that lead to our files, or to where they once were."""
    ours = [CLONE / name for name in ("custom", "configs", "load")] + [PACKAGE, *wanted.values()]
    found = {}
    for folder in (checkout, checkout / "custom", checkout / "configs", checkout / "load"):
        for link in filter(Path.is_symlink, folder.glob("*")):
            name, target = link.relative_to(checkout).as_posix(), link.resolve()
            like = wanted.get(name, Path())
            moved = not target.exists() and target.parts[-2:] == like.parts[-2:]
            if moved or any(target.is_relative_to(path) for path in ours):
                found[name] = target
    return found


def _check_checkout(checkout: Path) -> None:
    """Raises a ValueError unless the extension fits this threestudio."""
    from packaging.specifiers import SpecifierSet
    from threestudio_jointdreamer import HOST_VERSIONS

    for name in ("custom", "configs", "load", "launch.py"):
        if not (checkout / name).exists():
            raise ValueError(f"--threestudio {checkout} is no checkout of threestudio: no {name}.")
    text = (checkout / "threestudio" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r"""^__version__\s*=\s*["']([^"']+)["']""", text, re.MULTILINE)
    if found is None or found[1] not in SpecifierSet(",".join(HOST_VERSIONS)):
        raise ValueError(
            f"--threestudio {checkout} is threestudio {found[1] if found else 'of unknown version'}"
            f", but this extension needs {' and '.join(HOST_VERSIONS)}: check out 0.2.3."
        )


def _installed_encodings(ours: Path) -> Path | None:
    """The folder of a working tiny-cuda-nn, or None if there is only ours or none."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    folder = Path(done.stdout.strip().rpartition("\n")[2]).resolve().parent
    return None if done.returncode != 0 or folder == ours else folder


def _link(path: Path, source: Path) -> None:
    try:
        path.symlink_to(source, source.is_dir())
    except (OSError, NotImplementedError) as error:
        raise ValueError(
            f"{path} cannot be made a link ({error}). Windows makes links in Developer Mode; on a "
            "disk without links set THREESTUDIO_ROOT to the checkout and use our own launch.py."
        ) from error


def _hide_from_git(checkout: Path, hidden: Collection[str], ours: Collection[str]) -> None:
    """Writes `hidden`, and no other of `ours`, into the clone's .git/info/exclude."""
    from threestudio_jointdreamer.files import replacing

    file = checkout / ".git" / "info" / "exclude"
    if file.is_file():
        old = file.read_text(encoding="utf-8").splitlines()
        new = [line for line in old if line.removeprefix("/") not in ours]
        new += [f"/{name}" for name in sorted(hidden)]
        with replacing(file) as whole:
            whole.write_text("".join(f"{line}\n" for line in new), encoding="utf-8")
