"""What of the weights that a config needs is on this machine, and what the hub has to send."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from omegaconf import DictConfig

from ..priors.loading import find_file, find_local, is_original
from .folders import find_weights
from .hub import (
    WITHOUT_WEIGHTS,
    HubName,
    cached_part,
    cached_snapshot,
    explained,
    folders_of_part,
    list_files,
    parse_name,
    wanted_paths,
)
from .hub_download import FAILURES, HubFile, left_to_download
from .requirements import Requirement, requirements

HERE, CACHED, TO_DOWNLOAD, MISSING, ABSENT = "here", "cached", "to download", "missing", "absent"

Listing = Callable[[str], dict[str, HubFile]]  # a repository's files by path


@dataclass
class Item:
    """One requirement and where it stands.

    Attributes:
        state: `here` in a local folder or file, `cached`, `to download`, `missing`, or `absent`,
            which an optional part may be.
        files: on this machine.
        repo, remote: the repository, and the files of it that are needed: of cached ones too.
        left: bytes to download.
        problem: why it is missing, and what to do.
    """

    needed: Requirement
    state: str
    files: list[Path] = field(default_factory=list)
    repo: str | None = None
    remote: list[HubFile] = field(default_factory=list)
    left: int = 0
    problem: str = ""

    @property
    def size(self) -> int:
        """Bytes on this machine or, where it has to be downloaded, on the hub."""
        if self.state == TO_DOWNLOAD:
            return sum(file.size for file in self.remote)
        return sum(file.stat().st_size for file in self.files)

    @property
    def folder(self) -> Path | None:
        """The folder that is the part, if it is on this machine in diffusers layout."""
        config = next((f for f in self.files if f.name == "config.json"), None)
        return config.parent if config else None


def inventory_of(cfg: DictConfig) -> list[Item]:
    """Where everything stands that a config needs, without what it can do without and is not there.

    Raises:
        ValueError: the config names a type that is not registered.
    """
    return [item for item in take_inventory(requirements(cfg)) if item.state != ABSENT]


def bytes_left(items: Iterable[Item]) -> int:
    """To download, counting a file once that several items need."""
    files = {(item.repo, file) for item in items for file in item.remote if item.left}
    return sum(left_to_download(repo, file) for repo, file in files)


def take_inventory(needed: Iterable[Requirement]) -> list[Item]:
    """Where each requirement stands; asks the hub for lists of files only where it must."""
    listed = cache(list_files)  # each repository's files are asked for once
    unreachable: dict[str, Exception] = {}

    def listing(repo: str) -> dict[str, HubFile]:
        if repo in unreachable:  # which may have taken a while to find out
            raise unreachable[repo]
        try:
            return {file.path: file for file in listed(repo)}
        except FAILURES as error:
            unreachable[repo] = error
            raise

    return [_look(requirement, listing) for requirement in needed]


def _look(needed: Requirement, listing: Listing) -> Item:
    """Parts that are optional are never missing: of a model that is, other parts say so."""
    try:
        source = find_local(needed.name) or find_file(needed.name)
        if source is not None:
            return _look_here(needed, source)
        name = parse_name(needed.name)
        if name is not None and find_local(name.repo.split("/")[0]) is None:
            return _look_on_hub(needed, name, listing)
        raise FileNotFoundError(
            f"{needed.key}={needed.name!r}: there is no such folder or file. Check the path, "
            "give a hub name, or make the folder with jointdreamer convert."
        )
    except (OSError, ValueError) as error:
        state = ABSENT if needed.optional else MISSING
        return Item(needed, state, problem=str(error))


def _look_here(needed: Requirement, source: Path) -> Item:
    if source.is_file():
        return Item(needed, HERE, [source])
    folders = [source / name for name in folders_of_part(needed.part)]
    described = f"{needed.key}={needed.name!r}: {folders[0]}"
    folders = [folder for folder in folders if folder.is_dir()]
    if not folders:
        raise FileNotFoundError(
            f"{described} does not exist. Point the key to a model in diffusers layout that has it."
        )
    if needed.part in WITHOUT_WEIGHTS or is_original(source, needed.part):
        files = [file for folder in folders for file in sorted(folder.iterdir())]
        return Item(needed, HERE, [file for file in files if file.is_file()])
    weights = find_weights(folders[0], described, needed.half)
    return Item(needed, HERE, [folders[0] / "config.json", *weights])


def _look_on_hub(needed: Requirement, name: HubName, listing: Listing) -> Item:
    files = cached_part(name, needed.part, needed.half)
    if files:
        root = cached_snapshot(name.repo)
        remote = [_from_cache(file, root) for file in files]
        return Item(needed, CACHED, files, name.repo, remote)
    try:
        files_of_repo = listing(name.repo)
        paths = wanted_paths(name, files_of_repo, needed.part, needed.half, needed.key)
    except FAILURES as error:
        raise explained(error, name, needed.key) from error
    remote = [files_of_repo[path] for path in paths]
    left = sum(left_to_download(name.repo, file) for file in remote)
    return Item(needed, TO_DOWNLOAD, [], name.repo, remote, left)


def _from_cache(file: Path, root: Path) -> HubFile:
    """A cached file as the hub lists it: in the cache its content has its hash for a name."""
    name = file.resolve().name
    return HubFile(
        path=str(file.relative_to(root)),
        size=file.stat().st_size,
        sha256=name if len(name) == 64 else None,
        git_sha=name if len(name) == 40 else None,
    )
