"""Fetches one file of a hub repository into the Hugging Face cache: resumable, verified by hash."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlparse

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import (
    WeakFileLock,
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
)

from .files import sha256_of

Progress = Callable[[int], object]
FAILURES = (OSError, HTTPError, HFValidationError)  # of asking the hub; httpx's is no OSError
SUFFIX = ".jointdreamer.incomplete"  # of what is there so far, beside the cache's own files


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, as the hub lists it.

    Attributes:
        size: in bytes.
        sha256: of the content, which the hub knows of large files.
        git_sha: of the content with git's header, which it knows of small ones.
    """

    path: str
    size: int
    sha256: str | None = None
    git_sha: str | None = None


def ignore_progress(_: int) -> None:
    """For callers that show no bar."""


def download(repo: str, file: HubFile, progress: Progress = ignore_progress) -> Path:
    """The file's place in the cache, where it appears complete and verified, or not at all.

    An interrupted download of a large file goes on where it was. What the library itself does is
    checked for its size only and, from version 2 on, starts over; so large files are fetched here
    and the library merely enters them into its cache.

    Args:
        progress: told the bytes that came in, or were there from last time.

    Raises:
        OSError: no network, no such file, no permission, or a full disk.
        ValueError: the content is not what the hub says it is, twice in a row.
    """
    if file.sha256 is None:
        return _download_small(repo, file, progress)
    blob = cache_folder(repo) / "blobs" / file.sha256
    if not blob.exists():
        _fetch_blob(repo, file, blob, progress)
    else:
        progress(file.size)
    with _silent():
        return Path(hf_hub_download(repo, file.path))


def _download_small(repo: str, file: HubFile, progress: Progress) -> Path:
    progress(file.size)
    for again in (False, True):
        with _silent():
            path = Path(hf_hub_download(repo, file.path, force_download=again))
        if is_intact(path, file):
            return path
        discard(path)
    raise _damaged(repo, file)


def left_to_download(repo: str, file: HubFile) -> int:
    """The bytes of a file that are neither in the cache nor kept from an interrupted download."""
    if file.sha256 is None:
        return file.size
    blob = cache_folder(repo) / "blobs" / file.sha256
    if blob.exists():
        return 0
    return max(0, file.size - _size(blob.with_name(blob.name + SUFFIX)))


def is_intact(path: Path, file: HubFile, progress: Progress = ignore_progress) -> bool:
    """Whether the file's content has the hub's hash, or the right size where it gives none."""
    if path.stat().st_size != file.size:
        return False
    if file.sha256 is not None:
        return sha256_of(path, progress) == file.sha256
    if file.git_sha is not None:
        content = path.read_bytes()
        header = b"blob %d\0" % len(content)
        return hashlib.sha1(header + content, usedforsecurity=False).hexdigest() == file.git_sha
    return True


def discard(path: Path) -> None:
    """Removes a file from the cache, and what it is a link to."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def cache_folder(repo: str) -> Path:
    """A repository's place in the cache, with blobs/, snapshots/ and refs/."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


def _fetch_blob(repo: str, file: HubFile, blob: Path, progress: Progress) -> None:
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = blob.with_name(blob.name + SUFFIX)
    lock = Path(f"{partial}.lock")
    with WeakFileLock(lock):
        try:
            if blob.exists():  # another process was quicker
                progress(file.size)
                return
            progress(_size(partial))
            for _ in range(2):  # what an interruption left may be the damaged part
                _fetch_rest(repo, file, partial, progress)
                if sha256_of(partial) == file.sha256:
                    os.replace(partial, blob)
                    return
                progress(-_size(partial))
                partial.unlink()
            raise _damaged(repo, file)
        finally:
            lock.unlink(missing_ok=True)


def _fetch_rest(repo: str, file: HubFile, partial: Path, progress: Progress) -> None:
    """Goes on after each break of the connection, as long as anything comes in between."""
    while True:
        before = _size(partial)
        try:
            return _continue(repo, file, partial, progress)
        except FAILURES as error:
            if is_disk_full(error) or _size(partial) <= before:
                raise


def _continue(repo: str, file: HubFile, partial: Path, progress: Progress) -> None:
    url = hf_hub_url(repo, file.path)
    found = get_hf_file_metadata(url)
    headers = build_hf_headers()
    if urlparse(found.location).netloc != urlparse(url).netloc:
        headers.pop("authorization", None)  # the token is for the hub, not for its file servers
    if _size(partial) > file.size:
        progress(-_size(partial))
        partial.unlink()
    with open(partial, "ab") as opened, _silent():
        http_get(
            found.location,
            _Watched(opened, progress),
            resume_size=opened.tell(),
            headers=headers,
            expected_size=file.size,
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _Watched:
    """A file that tells `progress` of what is written to it."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file, self._progress = file, progress
        self.name = file.name

    def write(self, data: bytes) -> int:
        self._progress(len(data))
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._progress(offset - self.tell())
        return self._file.seek(offset, whence)

    def truncate(self, size: int | None = None) -> int:
        return self._file.truncate(size)


def _damaged(repo: str, file: HubFile) -> ValueError:
    return ValueError(
        f"{file.path} of {repo} arrived damaged twice: its hash is not the one that the hub gives. "
        "Nothing of it is kept; try again later or over another network."
    )


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that no room is left."""
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC:
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _silent() -> Iterator[None]:
    """Without the library's own bars: ours shows all files in one."""
    were_shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if were_shown:
            enable_progress_bars()
