"""From views of several objects to pairs with known answers, and renders as soft as distillation's.

Half of the pairs belong together. The others are told apart by one thing each: the object, the
pose, or a face that is on more than one side.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from threestudio_jointdreamer.priors.pair_classifier import relative_pose
from torch import Tensor

KINDS = ("same", "other_object", "wrong_pose", "janus")
SAME, OTHER, POSE, JANUS = range(len(KINDS))
APART_DEG = 30.0  # a wrong pose is wrong by at least this


class Pairs(NamedTuple):
    """P pairs of features, their relative pose, and what kind (of `KINDS`) each one is."""

    first: Float[Tensor, "P D"]
    second: Float[Tensor, "P D"]
    pose: Float[Tensor, "P 16"]
    kind: Int[Tensor, " P"]


def form_pairs(
    features: Float[Tensor, "B V D"],
    c2w: Float[Tensor, "B V 4 4"],
    janus: Float[Tensor, "B V D"] | None = None,
    face_deg: Float[Tensor, "B V"] | None = None,
    generator: torch.Generator | None = None,
) -> Pairs:
    """All ordered pairs of views of an object, and as many pairs that do not belong together.

    Of an ordered pair (i, j) there is one negative: with the same view of another object instead
    of j; or with a pose wrong by `APART_DEG` or more; or of a Janus object. Where an object has no
    such pose, or its views show one and the same face, it is the first of them.

    Args:
        features: of V views of each of B objects, two at least of both.
        c2w: their cameras.
        janus: the features of the same views with several faces. Without them, view i itself stands
            for view j: that is what an asset with a front on every side shows.
        face_deg: which face each view of `janus` shows, as its azimuth, NaN for none of its own.
        generator: draws on the CPU; torch's global one by default.

    Returns:
        2 B V (V - 1) pairs.
    """
    n_object, n_view = features.shape[:2]
    assert n_object > 1 and n_view > 1
    device = features.device
    i, j = (~torch.eye(n_view, dtype=torch.bool)).nonzero(as_tuple=True)
    shape = (n_object, len(i))
    kind = torch.randint(OTHER, len(KINDS), shape, generator=generator).to(device)
    shift = torch.randint(1, n_object, shape, generator=generator).to(device)
    chance = torch.rand(*shape, n_view, generator=generator).to(device)

    apart = _apart(c2w)
    wrong = ((1 + chance) * apart[:, j]).argmax(
        dim=2
    )  # a camera far enough from j, drawn at random
    if face_deg is None:
        two_faces = apart[:, i, j]
    else:
        gap = (face_deg[:, i] - face_deg[:, j] + 180) % 360 - 180
        two_faces = gap.abs() >= APART_DEG  # false for NaN
    possible = (kind == OTHER) | (kind == POSE) & apart[:, j].any(dim=2)
    kind = torch.where(possible | (kind == JANUS) & two_faces, kind, OTHER)

    rows = torch.arange(n_object, device=device)[:, None].expand(shape)
    i, j = i.to(device).expand(shape), j.to(device).expand(shape)
    second_rows = torch.where(kind == OTHER, (rows + shift) % n_object, rows)
    posed_as = torch.where(kind == POSE, wrong, j)
    first, second = features[rows, i], features[second_rows, j]
    is_janus = (kind == JANUS)[..., None]
    if janus is None:
        second = torch.where(is_janus, first, second)
    else:
        first = torch.where(is_janus, janus[rows, i], first)
        second = torch.where(is_janus, janus[rows, j], second)
    return Pairs(
        torch.cat([features[rows, i], first]).flatten(0, 1),
        torch.cat([features[rows, j], second]).flatten(0, 1),
        torch.cat(
            [
                relative_pose(c2w[rows, i], c2w[rows, j]),
                relative_pose(c2w[rows, i], c2w[second_rows, posed_as]),
            ]
        ).flatten(0, 1),
        torch.cat([torch.full_like(kind, SAME), kind]).flatten(),
    )


def soften(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Half of the pictures blurred to as little as a quarter of their size, half of them noisy.

    Distillation asks about denoised latents, which are softer than any render. Draws come from
    torch's global generator on the images' device.
    """

    def uniform() -> Tensor:
        return torch.rand(len(images), 1, 1, 1, device=images.device)

    size = images.shape[-2:]
    divisor = int(torch.randint(2, 5, ()))
    small = [max(1, pixels // divisor) for pixels in size]
    coarse = F.interpolate(images, small, mode="bilinear", align_corners=False, antialias=True)
    coarse = F.interpolate(coarse, size, mode="bilinear", align_corners=False)
    images = torch.lerp(images, coarse, uniform() * (uniform() < 0.5))
    noise = 0.08 * uniform() * (uniform() < 0.5)
    return (images + noise * torch.randn_like(images)).clamp(0, 1)


def _apart(c2w: Float[Tensor, "B V 4 4"]) -> Bool[Tensor, "B V V"]:
    """Which cameras of an object are turned against each other by `APART_DEG` or more."""
    rotation = c2w[..., :3, :3].flatten(2)
    cosine = (rotation @ rotation.mT - 1) / 2  # the trace of R_j^T R_k is 1 + 2 cos(angle)
    return cosine <= torch.cos(torch.deg2rad(cosine.new_tensor(APART_DEG)))
