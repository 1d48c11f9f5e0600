"""Files and folders that are on disk complete, or not at all."""

import errno
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # and its relatives, a quota or a limit


def user_cache(name: str) -> Path:
    """`jointdreamer/<name>` in the user's cache folder (XDG_CACHE_HOME or ~/.cache)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser() / "jointdreamer" / name


@contextmanager
def replacing(target: str | Path, durable: bool = False) -> Iterator[Path]:
    """A path beside `target` to write to; it takes the name of `target` when the block ends well.

    What is written may be a file or a folder, and an old `target` is replaced by it. After an error
    or Ctrl-C an old `target` is as it was and nothing new is left. The path has the same extension,
    by which writers choose their format.

    Args:
        durable: force a file to disk before it gets its name, so that it survives a power cut.

    Raises:
        OSError: it cannot be written; names `target`, and the remedy where the disk is full.

    Example:
        >>> with replacing("outputs/note.txt") as path:
        ...     path.write_text("whole")
    """
    target = Path(os.path.abspath(Path(target).expanduser()))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f".{target.name[:60]}.", dir=target.parent))
    except OSError as error:
        raise _explained(error, target) from error
    try:
        new = workplace / f"new{target.suffix}"
        yield new
        if durable:
            _sync(new)
        _take_name(new, target, workplace / "old")
        if durable:
            _sync(target.parent)
    except Exception as error:
        if _disk_is_full(error) or isinstance(error, OSError) and error.errno is not None:
            raise _explained(error, target) from error
        raise
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


@contextmanager
def replacing_folder(target: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """As `replacing`, an empty folder.

    Raises:
        ValueError: `target` is a file; or it is not empty, and `overwrite` is off.
    """
    target = Path(target).expanduser()
    if target.is_file() or (target.is_dir() and not overwrite and any(target.iterdir())):
        remedy = "choose another name" + ("" if target.is_file() else ", or overwrite it")
        raise ValueError(f"{target} exists already: {remedy}.")
    with replacing(target) as new:
        new.mkdir()
        yield new


def _take_name(new: Path, target: Path, old: Path) -> None:
    if new.is_file():
        os.replace(new, target)
        return
    try:
        if target.exists():
            os.replace(target, old)
        os.replace(new, target)
    except BaseException:  # Ctrl-C between the two as well
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def damaged_part(path: str | Path) -> str | None:
    """The first part of a file of torch.save that is not as it was saved; None of other files.

    Such a file is a zip archive with a checksum for each tensor, which torch.load does not look at.
    """
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            # torch takes what is marked as a folder for empty
            folders = [part.filename for part in archive.infolist() if part.external_attr & 0x10]
            return (folders or [archive.testzip()])[0]
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
        return f"its archive ({error})"


def _disk_is_full(error: Exception) -> bool:
    """Libraries that write by themselves say it in words."""
    return getattr(error, "errno", None) in DISK_FULL or "No space left on device" in str(error)


def _explained(error: Exception, target: Path) -> OSError:
    if _disk_is_full(error):
        text = f"the disk is full, so {target} is not written: free some room and do it again"
        return OSError(errno.ENOSPC, text)
    return OSError(error.errno, f"{target} cannot be written: {error.strerror}")
