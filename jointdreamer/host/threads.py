"""How many threads the numerical libraries use, and what threads do while they wait."""

import os


def set_thread_defaults() -> None:
    """For this process, if torch is not imported yet, and for its children.

    As many threads as this process may use physical cores, which sleep while they wait: threads
    that spin for each other make a busy machine many times slower. What the user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "OMP_NUM_THREADS" not in os.environ:
        from joblib import cpu_count  # slower to import than --help is to show

        os.environ["OMP_NUM_THREADS"] = str(cpu_count(only_physical_cores=True))


def threads_for_each(processes: int) -> int:
    """`OMP_NUM_THREADS` for each of so many processes that share the cores of this one."""
    set_thread_defaults()
    return max(1, int(os.environ["OMP_NUM_THREADS"].partition(",")[0]) // processes)
