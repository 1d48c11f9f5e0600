"""A user's mistake as one clear line."""

import errno
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

EXIT_CODE = 2


@contextmanager
def as_plain_errors() -> Iterator[None]:
    """Turns OmegaConf's, YAML's and Lightning's own errors about settings into `ValueError`."""
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
        if type(error).__name__ != "MisconfigurationException":  # not worth importing Lightning for
            raise
        raise ValueError(f"trainer or checkpoint settings: {error}") from error


@contextmanager
def reported(verbose: bool) -> Iterator[SimpleNamespace]:
    """Ends what the user can mend (wrong settings, missing files, a full disk) with one line.

    That line is `error: ...` on standard error, after the traceback if `verbose`; the `code` of
    what is yielded, 0 before, is then 2. Other errors, which are ours, pass through.
    """
    outcome = SimpleNamespace(code=0)
    try:
        yield outcome
    except (ValueError, OSError) as error:
        if verbose:
            traceback.print_exception(error)
        print(f"error: {_one_line(error)}", file=sys.stderr)
        outcome.code = EXIT_CODE


def _one_line(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
        if error.filename is not None:
            text += f": '{error.filename}'."
            text += " Free some space and run it again." if error.errno == errno.ENOSPC else ""
    return " ".join(text.split())
