"""`tinycudann.Encoding`: tiny-cuda-nn's constructor, attributes and parameter vector."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tinycudann.grid_fast import grid_encode, grid_input_gradient
from tinycudann.grid_layout import GridLayout
from tinycudann.spherical_harmonics import MAX_SH_DEGREE, spherical_harmonics_encode

_INITIAL_RANGE = 1e-4


class Encoding(nn.Module):
    """Map [N, 3] inputs in [0, 1] to [N, n_output_dims] features like `params`.

    A grid's entries are one flat parameter `params`, level by level, drawn uniformly from
    [-1e-4, 1e-4] with a generator of their own seeded with `seed`; spherical harmonics have none.

    Args:
        encoding_config: tiny-cuda-nn's configuration; `otype` is HashGrid (or Grid, whose default
            type that is) or SphericalHarmonics, in any case.
        seed: seed of the initial parameters.
        dtype: torch.float32 (or None, which means the same here).

    Raises:
        ValueError: an otype, value or dtype that this package does not have.

    Example:
        >>> Encoding(3, {"otype": "HashGrid", "n_levels": 4})(torch.rand(5, 3)).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        n_input_dims: int,
        encoding_config: Mapping[str, Any],
        seed: int = 1337,
        dtype: torch.dtype | None = torch.float32,
    ) -> None:
        super().__init__()
        if dtype not in (None, torch.float32):
            raise ValueError(
                f"Encoding dtype={dtype} is not available in the PyTorch encodings: "
                "use torch.float32."
            )
        if n_input_dims != 3:
            raise ValueError(f"The PyTorch encodings take 3 input dimensions, not {n_input_dims}.")
        self.n_input_dims = n_input_dims
        self.encoding_config = dict(encoding_config)
        self.seed = seed
        self.dtype = torch.float32
        otype = str(encoding_config.get("otype", "OneBlob"))
        self.layout: GridLayout | None = None
        initial = torch.zeros(0)

        if otype.lower() in ("grid", "hashgrid"):
            self.layout = GridLayout.from_config(encoding_config)
            self.n_output_dims = self.layout.n_output_dims
            generator = torch.Generator().manual_seed(seed)
            initial = torch.rand(self.layout.n_params, generator=generator)
            initial = (initial * 2 - 1) * _INITIAL_RANGE
        elif otype.lower() == "sphericalharmonics":
            self._degree = int(encoding_config.get("degree", 4))
            if not 1 <= self._degree <= MAX_SH_DEGREE:
                raise ValueError(
                    f"SphericalHarmonics of degree={self._degree} is not possible: use 1 to "
                    f"{MAX_SH_DEGREE}."
                )
            self.n_output_dims = self._degree**2
        else:
            raise ValueError(
                f"Encoding otype={otype!r} is unknown here: use HashGrid or SphericalHarmonics."
            )
        self.params = nn.Parameter(initial, requires_grad=len(initial) > 0)  # else DDP waits for it

    def input_gradient(
        self, x: Float[Tensor, "N 3"], grad: Float[Tensor, "N F"], encoded: Float[Tensor, "N F"]
    ) -> Float[Tensor, "N 3"]:
        """A grid's `grid_input_gradient`; tiny-cuda-nn has no such function."""
        return grid_input_gradient(grad, x.to(self.params.dtype), self.params, self.layout, encoded)

    def forward(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
        x = x.to(self.params.dtype)
        if self.layout is not None:
            return grid_encode(x, self.params, self.layout)
        return spherical_harmonics_encode(x, self._degree)
