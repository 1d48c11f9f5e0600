"""`jointdreamer download`: every weight that a config needs, so that runs need no network."""

import argparse
import os
import shutil
from pathlib import Path

from threestudio_jointdreamer.weights.hub_download import HubFile
from threestudio_jointdreamer.weights.inventory import (
    HERE,
    MISSING,
    TO_DOWNLOAD,
    Item,
    bytes_left,
    inventory_of,
)

GIB = 2**30
ROUNDS = 3  # what is fetched may name what else is needed, as a classifier its backbone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Fetch every weight that a config needs; started again, it goes on where it was."
    )
    parser.epilog = (
        "Further KEY=VALUE arguments change the config. Everything is verified by its hash, "
        "what was there already too; afterwards runs work with HF_HUB_OFFLINE=1."
    )
    parser.add_argument("config", type=Path, help="a YAML config")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be fetched")
    parser.set_defaults(run=download, takes_overrides=True)


def download(args: argparse.Namespace) -> int:
    """Fetches and verifies; prints a line for each part of each model.

    Returns:
        0, or 1 after a dry run that found something missing for good.

    Raises:
        FileNotFoundError: a weight is neither here nor on the hub, or the hub cannot be reached.
        OSError: the disk is too small.
        ValueError: no config, or a file that arrives damaged.
    """
    from .experiment import read_experiment

    cfg = read_experiment(args.config, args.overrides)
    items = inventory_of(cfg)
    for item in items:
        print(line(item))
    if args.dry_run:
        for problem in problems(items):
            print(problem)
        print(f"{bytes_left(items) / GIB:.2f} GiB would be downloaded.")
        return 1 if any(item.state == MISSING for item in items) else 0
    verified: set[tuple[str, HubFile]] = set()
    for _ in range(ROUNDS):
        if missing := problems(items):
            raise FileNotFoundError("; ".join(missing))
        pending = _files(items) - verified
        if not pending:
            break
        _fetch(pending, items)
        verified |= pending
        items = inventory_of(cfg)
    count, size = len(verified), sum(file.size for _, file in verified)
    print(
        f"{count} files of {size / GIB:.2f} GiB from the hub are in the cache, verified. "
        "Runs with this config need no network (HF_HUB_OFFLINE=1)."
        if count
        else "This config needs nothing from the hub."
    )
    return 0


def line(item: Item) -> str:
    """One line about an item: state, size, name and part."""
    size = f"{item.size / GIB:6.2f} GiB" if item.state != MISSING else " " * 10
    more = ""
    if item.state == TO_DOWNLOAD and item.left < item.size:
        more = f" ({item.left / GIB:.2f} GiB of it left)"
    return f"{item.state:<12} {size}  {item.needed.name} {item.needed.part}{more}"


def problems(items: list[Item]) -> list[str]:
    """Why items are missing, each reason once."""
    found = (item.problem for item in items if item.state == MISSING)
    return list(dict.fromkeys(problem.replace("\n", " ") for problem in found))


def _files(items: list[Item]) -> set[tuple[str, HubFile]]:
    return {(item.repo, file) for item in items if item.state != HERE for file in item.remote}


def _fetch(pending: set[tuple[str, HubFile]], items: list[Item]) -> None:
    from threestudio_jointdreamer.weights.hub import cached_snapshot, explained, parse_name
    from threestudio_jointdreamer.weights.hub_download import FAILURES, discard, download, is_intact
    from threestudio_jointdreamer.weights.progress import bytes_bar

    _check_room(items)
    with bytes_bar(sum(file.size for _, file in pending), "download and verify") as advance:
        for repo, file in sorted(pending, key=lambda pair: (pair[0], pair[1].path)):
            root = cached_snapshot(repo)
            path = root / file.path if root else None
            if path is not None and path.is_file():
                if is_intact(path, file, advance):
                    continue
                advance(-file.size)
                print(f"{file.path} of {repo} is damaged in the cache, so it is fetched again.")
                discard(path)
            try:
                download(repo, file, advance)
            except FAILURES as error:
                key = next(item.needed.key for item in items if item.repo == repo)
                raise explained(error, parse_name(repo), key) from error


def _check_room(items: list[Item]) -> None:
    from huggingface_hub import constants

    left = bytes_left(items)
    place = Path(constants.HF_HUB_CACHE)
    place = next(folder for folder in (place, *place.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if left > free:
        raise OSError(
            f"{left / GIB:.1f} GiB have to be downloaded, but {os.fspath(place)} has only "
            f"{free / GIB:.1f} GiB free: make room, or set HF_HOME to a larger disk."
        )
