"""Real spherical harmonics: the encoding of directions, without parameters."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

MAX_SH_DEGREE = 8


def spherical_harmonics_encode(
    x: Float[Tensor, "N 3"], degree: int
) -> Float[Tensor, "N degree*degree"]:
    """Real spherical harmonics of bands 0 .. degree-1, band by band, m from -l to l.

    The input is a direction mapped to [0, 1]^3, as (d + 1) / 2. Polynomials in x, y, z by the usual
    recurrences (P.-P. Sloan, "Stupid Spherical Harmonics Tricks", appendix A1), with the
    Condon-Shortley sign: Y_1 = sqrt(3 / 4 pi) (-y, z, -x). No trigonometric function is evaluated,
    so the derivatives hold everywhere, the poles included.
    """
    direction = x * 2.0 - 1.0
    dx, dy, dz = direction.unbind(-1)
    # cosine[m] = Re (dx + i dy)^m, sine[m] = Im (dx + i dy)^m
    cosine, sine = [torch.ones_like(dx)], [torch.zeros_like(dx)]
    for _ in range(1, degree):
        previous_cosine, previous_sine = cosine[-1], sine[-1]
        cosine.append(dx * previous_cosine - dy * previous_sine)
        sine.append(dx * previous_sine + dy * previous_cosine)

    legendre = _scaled_legendre(dz, degree)
    outputs = []
    for band in range(degree):
        for order in range(-band, band + 1):
            m = abs(order)
            norm = math.sqrt(
                (2 * band + 1) / (4 * math.pi) * math.factorial(band - m) / math.factorial(band + m)
            )
            if order == 0:
                outputs.append(norm * legendre[band, 0])
            else:
                azimuthal = cosine[m] if order > 0 else sine[m]
                outputs.append(math.sqrt(2) * norm * legendre[band, m] * azimuthal)
    return torch.stack(outputs, dim=-1)


def _scaled_legendre(z: Tensor, degree: int) -> dict[tuple[int, int], Tensor]:
    """P_l^m(z) / (1 - z^2)^(m/2) for 0 <= m <= l < degree, with the factor (-1)^m."""
    values: dict[tuple[int, int], Tensor] = {}
    for m in range(degree):
        values[m, m] = torch.full_like(z, (-1.0) ** m * math.prod(range(1, 2 * m, 2)))
        if m + 1 < degree:
            values[m + 1, m] = (2 * m + 1) * z * values[m, m]
        for band in range(m + 2, degree):
            values[band, m] = (
                (2 * band - 1) * z * values[band - 1, m] - (band + m - 1) * values[band - 2, m]
            ) / (band - m)
    return values
