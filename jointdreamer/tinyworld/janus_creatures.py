"""Creatures with faces at given azimuths: none, one on another side, or several, as Janus has."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .creatures import SPECIES, Creatures, Ellipsoids, build, slots_named

FACE_PARTS = ("eye", "pupil", "snout", "nose")


def _face_slots() -> Bool[Tensor, "S K"]:
    """The slots of each species' face; a frog's eyes sit on its ears, which go with them."""
    table = slots_named(FACE_PARTS)
    frog = SPECIES.index("frog")
    table[frog] |= slots_named(("ear",))[frog]
    return table


_FACE = _face_slots()
FACE_SLOTS = int(_FACE.sum(1).max())  # that each face takes up in what `with_faces` returns
# The places of the face's slots; those of smaller faces are filled up with empty slots.
_FACE_INDEX = (~_FACE).int().argsort(dim=1, stable=True)[:, :FACE_SLOTS]
_HEAD = slots_named(("head",)).int().argmax(dim=1)


def with_faces(
    creatures: Creatures, azimuths_deg: Float[Tensor, "N F"] | Sequence[float]
) -> Ellipsoids:
    """The creatures as `build` makes them, but with faces at the given azimuths only.

    A face is turned about the upright axis of the head, and moved in or out so that it lies on the
    head's surface as it does in front. The ordinary creature is the one with a face at 0 degrees.

    Args:
        creatures: N creatures.
        azimuths_deg: where the faces look, 0 is +x and 90 is +y. A tensor has a row for each
            creature, in which NaN stands for no face; a sequence holds for all creatures; an empty
            one leaves all without a face.

    Returns:
        N objects for `renderer.render`, with `FACE_SLOTS` more slots at the end for each face.

    Raises:
        ValueError: the rows do not match the creatures.
    """
    device, n = creatures.species.device, len(creatures)
    azimuths = torch.as_tensor(azimuths_deg, dtype=torch.float32, device=device)
    azimuths = azimuths.expand(n, -1) if azimuths.ndim == 1 else azimuths
    if azimuths.ndim != 2 or len(azimuths) != n:
        raise ValueError(
            f"azimuths_deg has the shape {tuple(azimuths.shape)} for {n} creatures. Give a row of "
            "azimuths for each creature, or one sequence for all."
        )
    objects = build(creatures)
    is_face = _FACE.to(device)[creatures.species]
    turned = _turned_faces(creatures, objects, is_face, azimuths)
    return Ellipsoids(
        torch.cat([objects.center, turned.center], dim=1),
        torch.cat([objects.inverse, turned.inverse], dim=1),
        torch.cat([objects.color, turned.color], dim=1),
        torch.cat([objects.present & ~is_face, turned.present], dim=1),
    )


def parts_of_a_face(creatures: Creatures) -> Int[Tensor, "N P"]:
    """What the `FACE_SLOTS` slots of a face hold: an index into `FACE_PARTS`, or -1."""
    kinds = torch.full(_FACE.shape, -1)
    for index, name in enumerate(FACE_PARTS):
        kinds[slots_named((name,))] = index
    return kinds.gather(1, _FACE_INDEX).to(creatures.species.device)[creatures.species]


def _turned_faces(
    creatures: Creatures,
    objects: Ellipsoids,
    is_face: Bool[Tensor, "N K"],
    azimuths_deg: Float[Tensor, "N F"],
) -> Ellipsoids:
    """A copy of each creature's face for every azimuth."""
    device, (n, count) = azimuths_deg.device, azimuths_deg.shape
    rows = torch.arange(n, device=device)[:, None]
    slots = _FACE_INDEX.to(device)[creatures.species]
    head = rows[:, 0], _HEAD.to(device)[creatures.species]
    middle = objects.center[head][:, None, None]
    radii = 1 / objects.inverse[head].diagonal(dim1=-2, dim2=-1)
    upright = radii / radii[:, :1]
    upright[:, 2] = 1.0

    turn = _rotations_about_z(azimuths_deg.nan_to_num())
    # Through the head's own round frame and back, so that the face stays on its surface.
    onto_head = upright[:, None, :, None] * turn / upright[:, None, None, :]
    offset = objects.center[rows, slots][:, None] - middle
    center = middle + torch.einsum("nfij,nfkj->nfki", onto_head, offset.expand(-1, count, -1, -1))
    inverse = torch.einsum("nkij,nflj->nfkil", objects.inverse[rows, slots], turn)
    present = (objects.present & is_face)[rows, slots][:, None] & ~azimuths_deg.isnan()[..., None]
    color = objects.color[rows, slots][:, None].expand(-1, count, -1, -1)
    return Ellipsoids(*(x.flatten(1, 2) for x in (center, inverse, color, present)))


def _rotations_about_z(angle_deg: Float[Tensor, "N F"]) -> Float[Tensor, "N F 3 3"]:
    sine, cosine = torch.deg2rad(angle_deg).sin(), torch.deg2rad(angle_deg).cos()
    zero, one = torch.zeros_like(sine), torch.ones_like(sine)
    rows = [cosine, -sine, zero, sine, cosine, zero, zero, zero, one]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
