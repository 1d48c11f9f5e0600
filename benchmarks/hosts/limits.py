"""How far rows may be apart, and why some may be further apart than the others."""

from dataclasses import dataclass
from fnmatch import fnmatch

STRICT = 1e-4


@dataclass(frozen=True)
class Limit:
    """Limits of the relative difference: of the largest one, and of all but 1 % of the numbers.

    Attributes:
        reason: why `largest` is above STRICT; "" where it is not.
    """

    largest: float = STRICT
    usual: float = STRICT
    reason: str = ""


HALF = "half precision has three digits"
EDGE = (
    "a sample whose opacity is within rounding of 0.01, or of the limit of visibility, is dropped "
    "by one host and kept by the other; that is at most 0.01 of a pixel"
)
WALL = "a step whose middle is within rounding of the box's wall counts in one host only"
MASK = "counts only pixels of opacity over 0.5, and one within rounding of it may be in or out"
MARCH = (
    "nerfacc adds up its steps one by one and the PyTorch march multiplies where rays are shifted, "
    "so distances differ in the last bits"
)
CELLS = (
    f"{MARCH}, which moves samples across walls of the finest cells (0.0005), where normals jump"
)
SIGN = (
    "AdamW's first step is the sign of the gradient, which is other where the gradient nearly is 0"
)
LIMIT_OF_CELL = "a cell whose density is within rounding of the limit is occupied in one host only"

# (packages of the standalone host, row) -> limit; the first that fits
RULES: list[tuple[str, str, Limit]] = [
    ("*", "rendering/*/z_variance", Limit(2.0, 2e-3, MASK)),
    ("*", "rendering/*/occupied cells", Limit(1e-3, 1e-3, LIMIT_OF_CELL)),
    ("*", "rendering/*/no grid_prune/*/samples", Limit(1e-3, 1e-3, WALL)),
    ("*", "rendering/*/samples", Limit(1e-3, 1e-3, EDGE)),
    ("pytorch", "training/full*/step/*", Limit(2.1, 1e-2, SIGN)),
    ("pytorch", "training/tiny/step/*", Limit(2.1, 1e-3, SIGN)),
    ("pytorch", "training/full*", Limit(1.0, 0.1, CELLS)),
    ("pytorch", "training/tiny/*", Limit(2e-3, 5e-4, MARCH)),
    ("pytorch", "rendering/full/*comp_normal", Limit(0.1, 5e-3, CELLS)),
    ("*", "*16-mixed*", Limit(1e-2, 2e-3, HALF)),
    ("*", "rendering/*/grid_prune/*", Limit(2e-2, 3e-4, EDGE)),
    ("pytorch", "rendering/full/*", Limit(5e-2, 2e-3, CELLS)),
    ("pytorch", "rendering/tiny/*", Limit(5e-4, 3e-4, MARCH)),
]


def limit_of(packages: str, row: str) -> Limit:
    for kind, pattern, limit in RULES:
        if fnmatch(packages, kind) and fnmatch(row, pattern):
            return limit
    return Limit()
