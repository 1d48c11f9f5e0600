"""A user's mistake as one clear line."""

import errno
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

EXIT_CODE = 2
INTERRUPTED = 130
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOST_DEVICE = re.compile(r"\bgloo\b.*(closed|reset) by peer|remote process exited")
OUT_OF_MEMORY = re.compile("out of memory|not enough memory|can't allocate memory|ALLOC_FAILED")


@contextmanager
def as_plain_errors() -> Iterator[None]:
    """Turns OmegaConf's, YAML's and Lightning's own errors about settings into `ValueError`.

    Lightning's are also those about packages that settings need, such as a logger's.
    """
    try:
        yield
    except OmegaConfBaseException as error:
        text = str(error).partition("\n")[0]
        if error.full_key and str(error.full_key) not in text:
            text = f"{error.full_key}: {text}"
        raise ValueError(f"{text}. Check the config.") from error
    except YAMLError as error:
        raise ValueError(f"not valid YAML: {error}") from error
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and "not met" in str(error):
            raise ValueError(
                f"a package that the config's loggers or trainer need: {error}"
            ) from error
        if type(error).__name__ != "MisconfigurationException":  # not worth importing Lightning for
            raise
        raise ValueError(f"trainer or checkpoint settings: {error}") from error


@contextmanager
def reported(verbose: bool) -> Iterator[SimpleNamespace]:
    """Ends what the user can mend with one line: wrong settings, missing files, a lack of room.

    That line is `error: ...` on standard error, after the traceback if `verbose`; the `code` of
    what is yielded, 0 before, is then 2, or 130 after Ctrl-C. Other errors, which are ours, pass
    through.
    """
    outcome = SimpleNamespace(code=0)
    try:
        yield outcome
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        outcome.code = INTERRUPTED
    except Exception as error:
        is_mendable = isinstance(error, ValueError | OSError)
        if not (is_mendable or is_disk_full(error) or is_out_of_memory(error)):
            raise
        if verbose:
            traceback.print_exception(error)
        print(f"error: {_one_line(error)}", file=sys.stderr)
        outcome.code = EXIT_CODE


def is_disk_full(error: BaseException) -> bool:
    """Or a quota is reached; libraries that write by themselves say it in words."""
    return getattr(error, "errno", None) in DISK_FULL or "No space left on device" in str(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU or of this machine."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error)))
    )


def is_lost_device(error: BaseException) -> bool:
    """Whether the process of another of a run's devices has ended, as gloo and NCCL say it."""
    return isinstance(error, RuntimeError) and bool(LOST_DEVICE.search(str(error)))


def _one_line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    if is_out_of_memory(error):
        text = f"out of memory: choose smaller sizes, or end what else takes it ({text})"
    elif is_disk_full(error):
        if "the disk is full" not in text:
            file = _written(error) or "a file"
            text = f"the disk is full, so {file} is not written: free some room and do it again"
    elif isinstance(error, OSError) and error.strerror:
        file = _written(error)
        text += f": '{file}'." if file else ""
    return " ".join(text.split())


def _written(error: BaseException) -> str | None:
    """What was being written: the error's file, or the innermost open file of its traceback."""
    if getattr(error, "filename", None):
        return str(error.filename)
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for value in frame.f_locals.values():
            name = getattr(value, "name", None)
            if isinstance(name, str) and hasattr(value, "write"):
                return name
    return None
