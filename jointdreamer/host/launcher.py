"""The driver behind launch.py: reads the command line, chooses the host, runs the config."""

import logging
import sys
from collections.abc import Sequence
from typing import Any

from . import errors
from .allocator import set_allocator_default
from .options import choose_gpus, parse_arguments
from .selection import ensure_host, load_extension, load_other_extensions
from .threads import set_thread_defaults


def run(argv: list[str], callbacks: Sequence[Any] = ()) -> dict[str, Any]:
    """Trains, validates, tests or exports what a config describes.

    Args:
        argv: the command line without the program's name, as in `launch.py --help`.
        callbacks: further ones for Lightning's Trainer.

    Returns:
        `trial_dir` (the run's folder), `save_dir` (pictures, videos, meshes), `ckpt` (the newest
        checkpoint or None) and `global_step` (that the weights are at).

    Raises:
        ValueError, FileNotFoundError: for what the user can mend; the message says how.
        OSError: if the disk is full.

    Example:
        >>> run(["--config", "configs/tiny/jointdreamer.yaml", "--train", "trainer.max_steps=10"])
    """
    with errors.as_plain_errors():
        options = parse_arguments(argv)
        n_gpus = choose_gpus(options.gpu, options.raw.get("trainer") or {})
        if options.verbose:
            logging.getLogger("pytorch_lightning").setLevel(logging.DEBUG)
        ensure_host()
        load_extension()
        load_other_extensions()
        from .session import execute  # needs the host that was just chosen

        return execute(options, n_gpus, callbacks)


def main(argv: list[str] | None = None) -> int:
    """`run` as a program.

    Returns:
        0, or 2 after one line `error: ...` about something that the user can mend.
    """
    argv = sys.argv[1:] if argv is None else argv
    set_thread_defaults()
    set_allocator_default()
    with errors.reported(verbose="--verbose" in argv) as outcome:
        run(argv)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
