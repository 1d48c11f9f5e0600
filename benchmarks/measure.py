"""What benchmarks share: the host, clocks, processes of their own, tables for a terminal."""

import argparse
import logging
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def positive(text: str) -> int:
    """An option of argparse that is a whole number from 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 1")
    return number


def load_host() -> str:
    """Makes threestudio and the extension importable.

    Returns:
        `threestudio`, that of THREESTUDIO_ROOT or an installed one, or `standalone`.
    """
    from jointdreamer.host.allocator import set_allocator_default
    from jointdreamer.host.selection import STANDALONE, ensure_host, load_extension

    set_allocator_default()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    folder = ensure_host()
    load_extension()
    return "standalone" if folder.is_relative_to(STANDALONE) else "threestudio"


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(function: Callable[[], object]) -> float:
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def take_turns(
    variants: Mapping[str, Callable[[], object]], rounds: int, warm_up: int
) -> list[dict[str, float]]:
    """Seconds of each variant, a dictionary a round.

    Variants follow each other in every round, so that what else the machine does falls on all.
    """
    return [
        {name: seconds(function) for name, function in variants.items()}
        for _ in range(warm_up + rounds)
    ][warm_up:]


def median_ratio(rounds: list[dict[str, float]], name: str, reference: str) -> float:
    """The median of the rounds' own ratios."""
    return statistics.median(each[name] / each[reference] for each in rounds)


def all_of(label: str, calls: Iterable[Any], jobs: int) -> None:
    """Carries out joblib's `delayed` calls by `jobs` processes, with a bar; order is not kept."""
    from joblib import Parallel, parallel_config

    from jointdreamer.progress import progress

    calls = list(calls)
    options = {"backend": "loky", "n_jobs": jobs, "inner_max_num_threads": 1}
    with progress(label, len(calls)) as advance, parallel_config(**options):
        for _ in Parallel(return_as="generator_unordered")(calls):
            advance()


def as_text(rows: list[dict[str, Any]]) -> str:
    """Columns under their names, the first one to the left, the others to the right."""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])])
        for first, *others in lines
    )


def in_own_process(function: Callable[..., T], *args: Any) -> T:
    """`function(*args)` in a new process that does nothing else; both can be pickled."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()
