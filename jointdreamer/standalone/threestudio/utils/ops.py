"""Tensor operations: activations, cameras and rays, chunking, small losses."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor

import threestudio

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


class _TruncExp(torch.autograd.Function):
    """exp whose gradient stops growing at x = 15, so that a large density cannot blow up a step.

    Half-precision inputs are computed in float32 under autocast. From torch-ngp.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.exp(x)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * torch.exp(x.clamp(max=15))


trunc_exp = _TruncExp.apply


def _lin2srgb(x: Tensor) -> Tensor:
    """The sRGB transfer function, IEC 61966-2-1."""
    curve = 1.055 * x.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(x > 0.0031308, curve, 12.92 * x).clamp(0.0, 1.0)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "lin2srgb": _lin2srgb,
    "exp": torch.exp,
    "shifted_exp": lambda x: torch.exp(x - 1.0),
    "trunc_exp": trunc_exp,
    "shifted_trunc_exp": lambda x: trunc_exp(x - 1.0),
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


def chunk_batch(func: Callable, chunk_size: int, *args, **kwargs) -> Any:
    """Calls `func` on slices of at most `chunk_size` along the first axis of all tensor arguments.

    `func` returns a tensor, a tuple, list or dict of tensors (or None), or None; the slices'
    results are concatenated. `chunk_size` <= 0 calls it once. Without gradients enabled the
    results are detached.

    Raises:
        ValueError: if no argument is a tensor.
        TypeError: if `func` returns anything else.
    """
    if chunk_size <= 0:
        return func(*args, **kwargs)
    sizes = [arg.shape[0] for arg in [*args, *kwargs.values()] if isinstance(arg, Tensor)]
    if not sizes:
        raise ValueError("chunk_batch needs at least one tensor argument to know the batch size.")

    def part(arg: Any, start: int) -> Any:
        return arg[start : start + chunk_size] if isinstance(arg, Tensor) else arg

    pieces: dict[Any, list] = defaultdict(list)
    kind: type | None = None
    for start in range(0, max(1, sizes[0]), chunk_size):  # an empty batch is one empty chunk
        out = func(
            *(part(arg, start) for arg in args),
            **{key: part(arg, start) for key, arg in kwargs.items()},
        )
        if out is None:
            continue
        kind = type(out)
        for key, value in _named_outputs(out).items():
            detach = isinstance(value, Tensor) and not torch.is_grad_enabled()
            pieces[key].append(value.detach() if detach else value)
    if kind is None:
        return None
    merged = {key: _merge(key, values) for key, values in pieces.items()}
    if issubclass(kind, Tensor):
        return merged[0]
    return merged if kind is dict else kind(merged.values())


def _named_outputs(out: Any) -> dict:
    if isinstance(out, Tensor):
        return {0: out}
    if isinstance(out, tuple | list):
        return dict(enumerate(out))
    if isinstance(out, dict):
        return out
    raise TypeError(
        f"chunk_batch: the function returned {type(out).__name__}, expected a tensor, tuple, list "
        "or dict of tensors."
    )


def _merge(key: Any, values: list) -> Tensor | None:
    if all(value is None for value in values):
        return None
    if all(isinstance(value, Tensor) for value in values):
        return torch.cat(values, dim=0)
    kinds = sorted({type(value).__name__ for value in values})
    raise TypeError(f"chunk_batch: output {key} is {', '.join(kinds)}, expected tensors.")


def get_ray_directions(
    H: int,
    W: int,
    focal: float | tuple[float, float],
    principal: tuple[float, float] | None = None,
    use_pixel_centers: bool = True,
) -> Float[Tensor, "H W 3"]:
    """Ray directions of all pixels in camera coordinates: x right, y up, looking along -z.

    Args:
        focal: focal length in pixels, one number, or (fx, fy) with the principal point given.
        principal: (cx, cy) in pixels; the image centre for a single focal length.

    Returns:
        Directions with z = -1, not normalised.

    Raises:
        ValueError: if `focal` is a pair and `principal` is missing.
    """
    if isinstance(focal, int | float):
        (fx, fy), (cx, cy) = (focal, focal), (W / 2, H / 2)
    elif principal is None:
        raise ValueError(f"focal={focal} is a pair: give the principal point (cx, cy) with it.")
    else:
        (fx, fy), (cx, cy) = focal, principal
    offset = 0.5 if use_pixel_centers else 0.0
    x = (torch.arange(W, dtype=torch.float32) + offset - cx) / fx
    y = (torch.arange(H, dtype=torch.float32) + offset - cy) / fy
    y, x = torch.meshgrid(-y, x, indexing="ij")
    return torch.stack([x, y, -torch.ones_like(x)], dim=-1)


def get_rays(
    directions: Float[Tensor, "*N 3"],
    c2w: Float[Tensor, "*B 4 4"],
    keepdim: bool = False,
    noise_scale: float = 0.0,
    normalize: bool = True,
) -> tuple[Float[Tensor, "*M 3"], Float[Tensor, "*M 3"]]:
    """Rays in world coordinates.

    Args:
        directions: in camera coordinates: [N 3] with c2w [4 4], [1 4 4] or [N 4 4]; [H W 3] with
            c2w [4 4] or [B 4 4]; [B H W 3] with c2w [B 4 4].
        c2w: camera-to-world matrices.
        keepdim: keep the axes ([B H W 3] or so) and do not flatten to [N 3].
        noise_scale: standard deviation of one offset for all origins and one for all directions.
        normalize: make directions unit vectors.

    Returns:
        Origins and directions.

    Raises:
        ValueError: for other shapes.
    """
    axes = (directions.ndim, c2w.ndim)
    if axes in ((2, 2), (3, 2)):
        camera = c2w
    elif axes == (2, 3):
        camera = c2w  # one matrix for each ray, or one for all
    elif axes in ((3, 3), (4, 3)):
        camera = c2w[:, None, None]
    else:
        raise ValueError(
            f"directions {tuple(directions.shape)} and c2w {tuple(c2w.shape)} do not go together: "
            "see get_rays for the shapes that do."
        )
    rays_d = (directions[..., None, :] * camera[..., :3, :3]).sum(-1)
    rays_o = camera[..., :3, 3].expand(rays_d.shape)
    if noise_scale > 0:
        rays_o = rays_o + torch.randn(3, device=rays_o.device) * noise_scale
        rays_d = rays_d + torch.randn(3, device=rays_d.device) * noise_scale
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


def binary_cross_entropy(input: Tensor, target: Tensor) -> Float[Tensor, ""]:
    """Mean cross entropy of probabilities, usable under autocast where torch's own refuses."""
    return -(target * torch.log(input) + (1 - target) * torch.log(1 - input)).mean()


def shifted_expotional_decay(a: float, b: float, c: float, r: Tensor) -> Tensor:
    """a exp(-b r) + c, an interpolation weight of Perp-Neg (the name is threestudio's)."""
    return a * torch.exp(-b * r) + c


def shifted_cosine_decay(a: float, b: float, c: float, r: Tensor) -> Tensor:
    """a cos(b r + c) + a."""
    return a * torch.cos(b * r + c) + a


def perpendicular_component(
    x: Float[Tensor, "B C H W"], y: Float[Tensor, "B C H W"]
) -> Float[Tensor, "B C H W"]:
    """What is left of each x after its projection on y is taken away (Perp-Neg)."""
    axes = [1, 2, 3]
    squared = (y * y).sum(axes, keepdim=True).clamp(min=1e-6)
    return x - (x * y).sum(axes, keepdim=True) / squared * y


def validate_empty_rays(
    ray_indices: Tensor, t_start: Tensor, t_end: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Replaces an empty set of samples by one of zero length; renderers then need not branch."""
    if ray_indices.nelement() == 0:
        threestudio.warn("No ray meets the object: the image is background only.")
        ray_indices = ray_indices.new_zeros(1)
        t_start, t_end = t_start.new_zeros(1), t_end.new_zeros(1)
    return ray_indices, t_start, t_end
