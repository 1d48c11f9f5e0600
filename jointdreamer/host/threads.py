"""How many threads the numerical libraries use, and what threads do while they wait."""

import os

# Rounds that a thread waits awake; libgomp's own 300,000 are too many beside another busy process,
# none too few on a machine of one's own: benchmarks/busy_machine.py
SPINS = "1000"


def set_thread_defaults() -> None:
    """For this process, if torch is not imported yet, and for its children.

    As many threads as this process may use physical cores, which soon sleep while they wait:
    threads that spin for each other make a busy machine many times slower. What the user has set
    stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "OMP_NUM_THREADS" not in os.environ:
        from joblib import cpu_count  # slower to import than --help is to show

        os.environ["OMP_NUM_THREADS"] = str(cpu_count(only_physical_cores=True))


def threads_for_each(processes: int) -> int:
    """`OMP_NUM_THREADS` for each of so many processes that share the cores of this one."""
    set_thread_defaults()
    return max(1, int(os.environ["OMP_NUM_THREADS"].partition(",")[0]) // processes)
