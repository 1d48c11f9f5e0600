"""The pieces that both hosts have; each module gives named tensors of one kind of piece."""

from collections.abc import Callable

from benchmarks.hosts.pieces import (
    cameras,
    encodings,
    geometry,
    prompts,
    rendering,
    shading,
    training,
)
from benchmarks.hosts.session import Rows, Session

PIECES: dict[str, Callable[[Session], Rows]] = {
    "encodings": encodings.rows,
    "geometry": geometry.rows,
    "shading": shading.rows,
    "rendering": rendering.rows,
    "training": training.rows,
    "cameras": cameras.rows,
    "prompts": prompts.rows,
}
NEED_CUDA = ("rendering", "training")  # threestudio marches rays on a GPU only
