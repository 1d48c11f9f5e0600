"""What JSD is compared with, as an extension beside the product.

`multiview-distillation-energy`: in jsd-guidance, SDS plus the loss of a multi-view model, weighed.
`multiview-distillation-guidance`: the multi-view model's loss alone.
`composed-volume`, `composed-system`: a scene of two volumes in place of one.

`python -m benchmarks.baselines` is launch.py with these: see configs/sweeps/benchmark.yaml.
"""

import sys
from pathlib import Path

PROGRAM = (sys.executable, str(Path(__file__).with_name("__main__.py")))  # launch.py with these
PROGRAM_TOGETHER = (*PROGRAM, "--together")


def register() -> None:
    """Chooses the host, and loads the extension and the baselines."""
    from benchmarks.measure import load_host

    load_host()
    from benchmarks.baselines import composed, energy, guidance  # noqa: F401
