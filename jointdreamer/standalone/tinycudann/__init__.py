"""tiny-cuda-nn's encodings in plain PyTorch: same configuration, same parameter layout, CPU or GPU.

Covers what text-to-3D configurations name: `HashGrid` and `SphericalHarmonics` of 3 inputs. A
parameter vector trained with either package loads into the other. On a CUDA device where Triton
works, its kernels compute the grid; JOINTDREAMER_TRITON=0 in the environment leaves it to PyTorch.

Where NVIDIA's tiny-cuda-nn is installed as well and works, importing this package gives that one:
in a checkout of threestudio, whose folder comes first on the path, this one would hide it.
"""

from pathlib import Path

from tinycudann.others import load_other

_other, why_not_other = load_other()

if _other is None:
    import gc

    import torch

    from tinycudann.encoding import Encoding

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


def _say_which() -> None:
    from pytorch_lightning.utilities.rank_zero import rank_zero_info

    where = f"in PyTorch, from {Path(__file__).resolve().parent}"
    if _other is not None:
        where = f"{Path(_other.__file__).parent} (JOINTDREAMER_TINYCUDANN=0 takes ours)"
    reason = f" ({why_not_other})" if why_not_other else ""
    rank_zero_info(f"tinycudann: {where}{reason}")


if Path(__file__).parent.is_symlink():  # linked into a checkout, where no launcher of ours says it
    _say_which()
