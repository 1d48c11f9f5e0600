"""Tensor operations: activations, cameras and rays, chunking, small losses."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor

ValidScale = tuple[float, float] | Num[Tensor, "2 D"]


def dot(x: Num[Tensor, "*N D"], y: Num[Tensor, "*N D"]) -> Num[Tensor, "*N 1"]:
    """Scalar product over the last axis, which stays."""
    return (x * y).sum(-1, keepdim=True)


def scale_tensor(
    dat: Num[Tensor, "*N D"], inp_scale: ValidScale | None, tgt_scale: ValidScale | None
) -> Num[Tensor, "*N D"]:
    """Maps the range `inp_scale` linearly onto `tgt_scale`; None is (0, 1)."""
    low, high = (0, 1) if inp_scale is None else inp_scale
    new_low, new_high = (0, 1) if tgt_scale is None else tgt_scale
    return (dat - low) / (high - low) * (new_high - new_low) + new_low


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "exp": torch.exp,
    "shifted_exp": lambda x: torch.exp(x - 1.0),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "shifted_softplus": lambda x: F.softplus(x - 1.0),
    "scale_-11_01": lambda x: x * 0.5 + 0.5,
}


def get_activation(name: str | None) -> Callable[[Tensor], Tensor]:
    """The activation called `name` here or in `torch.nn.functional`; None and "none" do nothing.

    Raises:
        ValueError: if there is none of that name.
    """
    name = "none" if name is None else name.lower()
    found = _ACTIVATIONS.get(name) or getattr(F, name, None)
    if not callable(found):
        raise ValueError(
            f"activation '{name}' is unknown: use one of {', '.join(_ACTIVATIONS)} or a function "
            "of torch.nn.functional."
        )
    return found


def check_activation(name: str, key: str) -> None:
    """For the annotation of a config's field.

    Raises:
        ValueError: no function of numbers has this name; names the key.
    """
    try:
        known = get_activation(name)(torch.zeros(2, 3)).shape == (2, 3)
    except Exception:  # torch.nn.functional has functions of much else
        known = False
    if not known:
        raise ValueError(f"{key}={name!r} is no activation: use one of {', '.join(_ACTIVATIONS)}.")


def chunk_batch(func: Callable, chunk_size: int, *args, **kwargs) -> Any:
    """Calls `func` on slices of at most `chunk_size` along the first axis of all tensor arguments.

    `func` returns a tensor, a tuple, list or dict of tensors (or None), or None; the slices'
    results are concatenated. `chunk_size` <= 0 calls it once. Without gradients enabled the
    results are detached.
    """
    if chunk_size <= 0:
        return func(*args, **kwargs)
    size = next(len(arg) for arg in [*args, *kwargs.values()] if isinstance(arg, Tensor))

    def part(arg: Any, start: int) -> Any:
        return arg[start : start + chunk_size] if isinstance(arg, Tensor) else arg

    return _concatenated(
        [
            func(
                *(part(arg, start) for arg in args),
                **{key: part(arg, start) for key, arg in kwargs.items()},
            )
            for start in range(0, max(1, size), chunk_size)  # an empty batch is one empty chunk
        ]
    )


def _concatenated(outs: list) -> Any:
    first = outs[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        joined = torch.cat(outs, dim=0)
        return joined if torch.is_grad_enabled() else joined.detach()
    if isinstance(first, dict):
        return {key: _concatenated([out[key] for out in outs]) for key in first}
    return type(first)(_concatenated(list(column)) for column in zip(*outs, strict=True))


def get_ray_directions(H: int, W: int, focal: float) -> Float[Tensor, "H W 3"]:
    """Rays through all pixels' centres in camera coordinates: x right, y up, looking along -z.

    Args:
        focal: focal length in pixels; the principal point is the image's centre.

    Returns:
        Directions with z = -1, not normalised.
    """
    x = (torch.arange(W, dtype=torch.float32) + 0.5 - W / 2) / focal
    y = (torch.arange(H, dtype=torch.float32) + 0.5 - H / 2) / focal
    y, x = torch.meshgrid(-y, x, indexing="ij")
    return torch.stack([x, y, -torch.ones_like(x)], dim=-1)


def get_rays(
    directions: Float[Tensor, "#B H W 3"] | Float[Tensor, "H W 3"],
    c2w: Float[Tensor, "B 4 4"],
    keepdim: bool = False,
    normalize: bool = True,
) -> tuple[Float[Tensor, "*M 3"], Float[Tensor, "*M 3"]]:
    """Rays in world coordinates.

    Args:
        directions: in camera coordinates.
        c2w: camera-to-world matrices.
        keepdim: [B H W 3], not flattened to [B*H*W 3].
        normalize: make directions unit vectors.

    Returns:
        Origins and directions.
    """
    camera = c2w[:, None, None]
    rays_d = (directions[..., None, :] * camera[..., :3, :3]).sum(-1)
    rays_o = camera[..., :3, 3].expand(rays_d.shape)
    if normalize:
        rays_d = F.normalize(rays_d, dim=-1)
    if not keepdim:
        rays_o, rays_d = rays_o.reshape(-1, 3), rays_d.reshape(-1, 3)
    return rays_o, rays_d


def get_projection_matrix(
    fovy: Float[Tensor, "B"], aspect_wh: float, near: float, far: float
) -> Float[Tensor, "B 4 4"]:
    """OpenGL's perspective matrix with y flipped, as nvdiffrast's images have their origin on top.

    Args:
        fovy: vertical field of view, radians.
        aspect_wh: width / height.
    """
    tangent = torch.tan(fovy.float().cpu() / 2)
    matrix = torch.zeros(fovy.shape[0], 4, 4)
    matrix[:, 0, 0] = 1.0 / (tangent * aspect_wh)
    matrix[:, 1, 1] = -1.0 / tangent
    matrix[:, 2, 2] = -(far + near) / (far - near)
    matrix[:, 2, 3] = -2.0 * far * near / (far - near)
    matrix[:, 3, 2] = -1.0
    return matrix


def get_mvp_matrix(
    c2w: Float[Tensor, "B 4 4"], proj_mtx: Float[Tensor, "B 4 4"]
) -> Float[Tensor, "B 4 4"]:
    """World to clip space; `c2w` must be rigid (rotation and translation)."""
    rotation = c2w[:, :3, :3].transpose(1, 2)
    w2c = torch.zeros_like(c2w)
    w2c[:, :3, :3] = rotation
    w2c[:, :3, 3:] = -rotation @ c2w[:, :3, 3:]
    w2c[:, 3, 3] = 1.0
    return proj_mtx @ w2c
