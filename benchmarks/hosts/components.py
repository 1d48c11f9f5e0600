"""The components that both hosts have: a module each, whose `cases` give named tensors."""

from collections.abc import Callable

from benchmarks.hosts import (
    cameras,
    encodings,
    geometry,
    prompts,
    rendering,
    shading,
    training,
)
from benchmarks.hosts.session import Cases, Session

COMPONENTS: dict[str, Callable[[Session], Cases]] = {
    "encodings": encodings.cases,
    "geometry": geometry.cases,
    "shading": shading.cases,
    "rendering": rendering.cases,
    "training": training.cases,
    "cameras": cameras.cases,
    "prompts": prompts.cases,
}
# threestudio marches rays on a GPU only, and puts its embeddings there
NEED_CUDA = ("rendering", "training", "prompts")
