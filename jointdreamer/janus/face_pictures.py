"""Labelled pictures for the face detector: creatures with none to eight faces, from all sides."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from rich.progress import track
from torch import Tensor

from ..tinyworld.creatures import COLORS, MAX_PARTS, Creatures, Ellipsoids, sample_creatures
from ..tinyworld.dataset import ELEVATION_DEG, FOVY_DEG, RELATIVE_DISTANCE, backgrounds
from ..tinyworld.janus_creatures import (
    FACE_PARTS,
    FACE_SLOTS,
    parts_of_a_face,
    with_faces,
)
from ..tinyworld.renderer import orbit_cameras, render

SPLITS = {"train": range(0, 7), "calibrate": range(7, 8), "held-out": range(8, 10)}
SEES_DEG, MISSES_DEG = 15.0, 45.0  # a face is looked at within the first, no more from the second
PICTURE_SIZE = 80
_SPOTS, _PATCH = 3, 12
_LOSSES = (0.12, 0.0, 0.2, 0.35)  # how often a part of FACE_PARTS is missing
_FIELDS = ("center", "inverse", "color", "present")


@dataclass(frozen=True)
class FacePictures:
    """N renders and how far a face looks at the camera in each, from 0 to 1."""

    images: UInt8[Tensor, "N 3 H W"]
    labels: Float[Tensor, " N"]


def draw_creatures(n: int, split: str, generator: torch.Generator) -> Creatures:
    """`n` creatures of one split. No combination of attributes is in two splits.

    Args:
        split: a key of `SPLITS`; the combination's number modulo 10 decides.
        generator: on the CPU.
    """
    found: list[Creatures] = []
    while sum(map(len, found)) < n:
        drawn = sample_creatures(max(64, 4 * n), generator)
        found.append(drawn[_is_in(drawn, split)])
    fields = [vars(part) for part in found]
    return Creatures(**{k: torch.cat([part[k] for part in fields])[:n] for k in fields[0]})


def _is_in(creatures: Creatures, split: str) -> Bool[Tensor, " N"]:
    number = creatures.species
    for attribute, base in (
        (creatures.color, len(COLORS)),
        (creatures.hat + 1, len(COLORS) + 1),
        (creatures.backpack + 1, len(COLORS) + 1),
        (creatures.belly.long(), 2),
    ):
        number = number * base + attribute
    shuffled = (number * 7919 + 104729) % 1000003  # so that a split is no pattern of colours
    return torch.isin(shuffled % 10, torch.tensor(list(SPLITS[split])))


def draw_faces(counts: Tensor, generator: torch.Generator, apart_deg: float = 0.0) -> Tensor:
    """Azimuths [N F] in degrees, NaN-padded: `counts[n]` faces spread unevenly over the circle.

    Args:
        apart_deg: the least angle between neighbours (where the count leaves room for it).
    """
    n, most = len(counts), max(1, int(counts.max()))
    place = torch.arange(most).expand(n, most)
    share = 360.0 / counts.clamp_min(1)[:, None]
    slack = (share - apart_deg).clamp_min(0)
    jitter = (torch.rand(n, most, generator=generator) - 0.5) * slack * 0.98
    start = 360.0 * torch.rand(n, 1, generator=generator)
    azimuths = (start + place * share + jitter) % 360.0
    return azimuths.masked_fill(place >= counts[:, None], math.nan)


def faciness(azimuth_deg: Float[Tensor, " N"], faces_deg: Float[Tensor, "N F"]) -> Tensor:
    """1 where a face looks at the camera, 0 where none does, linear in the angle between."""
    apart = ((azimuth_deg[:, None] - faces_deg + 180) % 360 - 180).abs().nan_to_num(180.0)
    nearest = apart.min(dim=1).values
    return ((MISSES_DEG - nearest) / (MISSES_DEG - SEES_DEG)).clamp(0, 1)


@torch.no_grad()
def make_face_pictures(n: int, split: str, seed: int) -> FacePictures:
    """Renders `n` pictures, each of its own creature, half of them about a face."""
    generator = torch.Generator().manual_seed(seed)
    creatures = draw_creatures(n, split, generator)
    weights = torch.tensor([0.15, 0.35, 0.15, 0.1, 0.1, 0.05, 0.04, 0.03, 0.03])
    counts = torch.multinomial(weights, n, replacement=True, generator=generator)
    faces = draw_faces(counts, generator)

    def uniform(low: float, high: float, size: int = n) -> Tensor:
        return low + (high - low) * torch.rand(size, generator=generator)

    anywhere = uniform(0, 360)
    towards = (faces[:, 0] + uniform(-45, 45)) % 360
    azimuth = torch.where((uniform(0, 1) < 0.3) & (counts > 0), towards, anywhere)
    fovy = uniform(*FOVY_DEG)
    distance = uniform(*RELATIVE_DISTANCE) / torch.tan(torch.deg2rad(fovy / 2))
    c2w = orbit_cameras(azimuth, uniform(*ELEVATION_DEG), distance)
    behind = backgrounds(n, generator)
    images = torch.empty(n, 3, PICTURE_SIZE, PICTURE_SIZE, dtype=torch.uint8)
    batches = counts.argsort().split(16)  # of alike numbers of faces, so that few slots are empty
    for rows in track(batches, "rendering faces", disable=n < 1024):
        objects = _deface(with_faces(creatures[rows], faces[rows]), creatures[rows], generator)
        rgb = render(
            _compact(objects), c2w[rows], fovy[rows], behind[rows], PICTURE_SIZE, supersample=1
        )
        images[rows] = (rgb * 255).round().to(torch.uint8)
    return FacePictures(images, faciness(azimuth, faces))


def _compact(objects: Ellipsoids) -> Ellipsoids:
    """Filled slots first, and no more slots than the fullest object needs."""
    order = (~objects.present).int().argsort(dim=1, stable=True)
    order = order[:, : int(objects.present.sum(dim=1).max())]
    return objects[torch.arange(len(order))[:, None], order]


def _deface(objects: Ellipsoids, creatures: Creatures, generator: torch.Generator) -> Ellipsoids:
    """Changes faces as distillation does: parts missing, swollen, tinted; and adds spots."""

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(*size, generator=generator)

    n, total = objects.present.shape
    each = parts_of_a_face(creatures)
    parts = each.repeat(1, (total - MAX_PARTS) // FACE_SLOTS)
    parts = torch.cat([torch.full((n, MAX_PARTS), -1), parts], dim=1)
    kinds = len(FACE_PARTS)
    # The last column stands for what is no part of a face, and is never changed.
    lost = torch.cat([uniform(0, 1, n, kinds) < torch.tensor(_LOSSES), torch.zeros(n, 1)], 1)
    size = torch.cat([uniform(0.75, 1.4, n, kinds), torch.ones(n, 1)], dim=1)
    amount = torch.cat([uniform(-0.3, 0.5, n, kinds).clamp_min(0), torch.zeros(n, 1)], dim=1)
    tint = uniform(0, 1, n, kinds + 1, 3).gather(
        1, (parts % (kinds + 1))[..., None].expand(-1, -1, 3)
    )
    lost, size, amount = (x.gather(1, parts % (kinds + 1)) for x in (lost, size, amount))
    changed = Ellipsoids(
        objects.center,
        objects.inverse / size[..., None, None],
        torch.lerp(objects.color, tint, amount[..., None]),
        objects.present & (lost == 0),
    )
    return _with_spots(changed, uniform)


def _with_spots(objects: Ellipsoids, uniform: Callable[..., Tensor]) -> Ellipsoids:
    """Adds up to three small dark or light balls anywhere on head and body, which are no faces."""
    n = len(objects.center)
    angle, height = uniform(0, 2 * math.pi, n, _SPOTS), uniform(-0.6, 0.35, n, _SPOTS)
    center = torch.stack([0.37 * angle.cos(), 0.37 * angle.sin(), height], dim=-1)
    inverse = torch.eye(3) / uniform(0.04, 0.12, n, _SPOTS)[..., None, None]
    color = uniform(0, 1, n, _SPOTS, 3) * 0.25 + 0.75 * uniform(0, 1, n, _SPOTS, 1).round()
    present = uniform(0, 1, n, _SPOTS) < 0.3
    spots = Ellipsoids(center, inverse, color, present)
    return _joined(_joined(objects, spots), _motley_patch(n, uniform))


def _motley_patch(n: int, uniform: Callable[..., Tensor]) -> Ellipsoids:
    """On half of the creatures a heap of balls in two or three colours: a badly distilled backpack.

    It lies on the body or low on the head, so that it seldom hides a face.
    """
    angle, height = uniform(0, 2 * math.pi, n, 1), uniform(-0.55, 0.15, n, 1)
    around, size = uniform(-0.2, 0.2, n, _PATCH, 3), uniform(0.05, 0.16, n, _PATCH)
    middle = torch.stack([0.38 * angle.cos(), 0.38 * angle.sin(), height], dim=-1)
    palette = uniform(0, 1, n, 3, 3)
    chosen = uniform(0, 3, n, _PATCH).long()[..., None].expand(-1, -1, 3)
    color = (palette.gather(1, chosen) + uniform(-0.1, 0.1, n, _PATCH, 3)).clamp(0, 1)
    present = (uniform(0, 1, n, 1) < 0.5) & (uniform(0, 1, n, _PATCH) < 0.8)
    return Ellipsoids(middle + around, torch.eye(3) / size[..., None, None], color, present)


def _joined(first: Ellipsoids, second: Ellipsoids) -> Ellipsoids:
    return Ellipsoids(*(torch.cat([getattr(first, f), getattr(second, f)], dim=1) for f in _FIELDS))
