"""tiny-cuda-nn's encodings in plain PyTorch: same configuration, same parameter layout, CPU or GPU.

Covers what text-to-3D configurations name: the grids (`HashGrid`, `DenseGrid`, `TiledGrid`,
`Grid`), `Frequency`, `SphericalHarmonics` and `Identity`. A parameter vector trained with either
package loads into the other.
"""

import gc

import torch

from .encoding import Encoding

__all__ = ["Encoding", "free_temporary_memory"]


def free_temporary_memory() -> None:
    """Return cached memory to the system, as tiny-cuda-nn's function of this name does."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def __getattr__(name: str):
    if name in ("Network", "NetworkWithInputEncoding"):
        raise AttributeError(
            f"tinycudann.{name} needs NVIDIA's tiny-cuda-nn, which is not installed: this PyTorch "
            "package has its encodings only. Use otype: VanillaMLP for networks."
        )
    raise AttributeError(f"module 'tinycudann' has no attribute {name!r}")
