"""threestudio's regularisers of a volume or a mesh, as functions of the renderer's output.

`lambda_<name>` in `system.loss` weighs `REGULARISERS[name]`. Definitions and scales are those of
threestudio's DreamFusion system, those of a mesh of its ProlificDreamer system.
"""

from collections.abc import Callable, Mapping
from dataclasses import make_dataclass
from functools import partial
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor

from ..step_schedule import StepSchedule

Output = Mapping[str, Any]


def orientation(out: Output) -> Float[Tensor, ""]:
    """Penalises visible normals that face away from the camera (Ref-NeRF; DreamFusion).

    Sum over samples of w max(0, n·d)², per ray that sees anything, with the weights w held fixed.

    Raises:
        ValueError: the render has no normals.
    """
    if "normal" not in out:
        raise ValueError(
            "system.loss.lambda_orient is above 0 but the render has no normals along its rays. "
            "Choose nerf-volume-renderer and a material that needs normals, or set "
            "system.loss.lambda_orient to 0."
        )
    facing_away = (out["normal"] * out["t_dirs"]).sum(-1, keepdim=True).clamp_min(0.0)
    rays = (out["opacity"] > 0).sum().clamp_min(1)
    return (out["weights"].detach() * facing_away**2).sum() / rays


def sparsity(out: Output) -> Float[Tensor, ""]:
    """Mean of √(opacity² + 0.01): keeps empty space empty."""
    return (out["opacity"] ** 2 + 0.01).sqrt().mean()


def opaque(out: Output) -> Float[Tensor, ""]:
    """Mean binary entropy of the opacity: pushes rays to hit or miss."""
    p = out["opacity"].clamp(1.0e-3, 1.0 - 1.0e-3)
    return -(p * p.log() + (1 - p) * (1 - p).log()).mean()


def z_variance(out: Output) -> Float[Tensor, ""]:
    """Mean depth variance along rays that hit the object (HiFA); 0 while none does.

    Raises:
        ValueError: the renderer reports no depth variance.
    """
    if "z_variance" not in out:
        raise ValueError(
            "system.loss.lambda_z_variance is above 0 but this renderer reports no z_variance. "
            "Use nerf-volume-renderer, or set system.loss.lambda_z_variance to 0."
        )
    hit = (out["opacity"] > 0.5).to(out["z_variance"].dtype)
    return (out["z_variance"] * hit).sum() / hit.sum().clamp_min(1)


def normal_consistency(out: Output) -> Float[Tensor, ""]:
    """Mean of 1 - cos of the angle between the normals at the two ends of each edge of the mesh."""
    return _mesh(out, "normal_consistency").normal_consistency()


def laplacian_smoothness(out: Output) -> Float[Tensor, ""]:
    """Mean length of the uniform Laplacian: how far vertices are from among their neighbours."""
    return _mesh(out, "laplacian_smoothness").laplacian()


def _mesh(out: Output, name: str) -> Any:
    """The host's `Mesh`.

    Raises:
        ValueError: the renderer draws no mesh.
    """
    if "mesh" not in out:
        raise ValueError(
            f"system.loss.lambda_{name} is above 0 but this renderer draws no mesh. "
            "Use nvdiff-rasterizer or jointdreamer-mesh-renderer, or set "
            f"system.loss.lambda_{name} to 0."
        )
    return out["mesh"]


REGULARISERS: dict[str, Callable[[Output], Float[Tensor, ""]]] = {
    "orient": orientation,
    "sparsity": sparsity,
    "opaque": opaque,
    "z_variance": z_variance,
    "normal_consistency": normal_consistency,
    "laplacian_smoothness": laplacian_smoothness,
}
Weight = Annotated[Any, partial(StepSchedule, within="[0, inf)")]
LossWeights = make_dataclass(  # the block `system.loss`
    "LossWeights", [(f"lambda_{name}", Weight, 0.0) for name in ("sds", *REGULARISERS)]
)
