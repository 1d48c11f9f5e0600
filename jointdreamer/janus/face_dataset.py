"""Labelled pictures for the face detector: creatures with none to eight faces, from all sides."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..progress import track
from ..tinyworld.creatures import MAX_PARTS, Creatures, Ellipsoids
from ..tinyworld.dataset import ELEVATION_DEG, FOVY_DEG, RELATIVE_DISTANCE, backgrounds
from ..tinyworld.janus_creatures import FACE_PARTS, FACE_SLOTS, parts_of_a_face, with_faces
from ..tinyworld.renderer import orbit_cameras, render
from .synthetic import draw_creatures, draw_faces

SEES_DEG, MISSES_DEG = 15.0, 45.0  # a face is looked at within the first, no more from the second
PICTURE_SIZE = 80
FACE_COUNTS = (0.15, 0.35, 0.15, 0.1, 0.1, 0.05, 0.04, 0.03, 0.03)  # how often 0, 1, ... faces
_SPOTS, _CLUTTER = 3, 12
_MISSING = (0.12, 0.0, 0.2, 0.35)  # how often a part of FACE_PARTS is


@dataclass(frozen=True)
class FaceDataset:
    """N renders and how far a face looks at the camera in each, from 0 to 1."""

    images: UInt8[Tensor, "N 3 H W"]
    labels: Float[Tensor, " N"]


def face_labels(azimuth_deg: Float[Tensor, " N"], faces_deg: Float[Tensor, "N F"]) -> Tensor:
    """1 where a face looks at the camera, 0 where none does, linear in the angle between."""
    apart = ((azimuth_deg[:, None] - faces_deg + 180) % 360 - 180).abs().nan_to_num(180.0)
    nearest = apart.min(dim=1).values
    return ((MISSES_DEG - nearest) / (MISSES_DEG - SEES_DEG)).clamp(0, 1)


@torch.no_grad()
def make_face_dataset(n: int, split: str, seed: int) -> FaceDataset:
    """Renders `n` pictures, each of its own creature, half of them about a face."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(size or (n,), generator=generator)

    creatures = draw_creatures(n, split, generator)
    counts = torch.multinomial(torch.tensor(FACE_COUNTS), n, replacement=True, generator=generator)
    faces = draw_faces(counts, generator)
    anywhere = uniform(0, 360)
    towards = (faces[:, 0] + uniform(-45, 45)) % 360
    azimuth = torch.where((uniform(0, 1) < 0.3) & (counts > 0), towards, anywhere)
    fovy = uniform(*FOVY_DEG)
    distance = uniform(*RELATIVE_DISTANCE) / torch.tan(torch.deg2rad(fovy / 2))
    c2w = orbit_cameras(azimuth, uniform(*ELEVATION_DEG), distance)
    behind = backgrounds(n, generator)
    images = torch.empty(n, 3, PICTURE_SIZE, PICTURE_SIZE, dtype=torch.uint8)
    batches = counts.argsort().split(16)  # of alike numbers of faces, so that few slots are empty
    for rows in track(batches, "rendering faces"):
        objects = with_faces(creatures[rows], faces[rows])
        objects = _vary_faces(objects, creatures[rows], uniform)
        objects = objects.join(_spots(len(rows), uniform))
        objects = _compact(objects.join(_clutter(len(rows), uniform)))
        rgb = render(objects, c2w[rows], fovy[rows], behind[rows], PICTURE_SIZE, supersample=1)
        images[rows] = (rgb * 255).round().to(torch.uint8)
    return FaceDataset(images, face_labels(azimuth, faces))


def _vary_faces(
    objects: Ellipsoids, creatures: Creatures, uniform: Callable[..., Tensor]
) -> Ellipsoids:
    """Changes faces as distillation does: parts missing, swollen, tinted."""
    n, total = objects.present.shape
    kinds = len(FACE_PARTS)
    each = parts_of_a_face(creatures)
    parts = each.repeat(1, (total - MAX_PARTS) // FACE_SLOTS)
    parts = torch.cat([torch.full((n, MAX_PARTS), -1), parts], dim=1) % (kinds + 1)

    def of_each_slot(values: Tensor, others: float) -> Tensor:
        """[n kinds] to [n slots]; the last kind, `others`, is what is no part of a face."""
        return torch.cat([values, torch.full((n, 1), others)], dim=1).gather(1, parts)

    missing = of_each_slot((uniform(0, 1, n, kinds) < torch.tensor(_MISSING)).float(), 0)
    size = of_each_slot(uniform(0.75, 1.4, n, kinds), 1)
    amount = of_each_slot(uniform(-0.3, 0.5, n, kinds).clamp_min(0), 0)
    tint = uniform(0, 1, n, kinds + 1, 3).gather(1, parts[..., None].expand(-1, -1, 3))
    return Ellipsoids(
        objects.center,
        objects.inverse / size[..., None, None],
        torch.lerp(objects.color, tint, amount[..., None]),
        objects.present & (missing == 0),
    )


def _spots(n: int, uniform: Callable[..., Tensor]) -> Ellipsoids:
    """Up to three small dark or light balls anywhere on head and body, which are no faces."""
    angle, height = uniform(0, 2 * math.pi, n, _SPOTS), uniform(-0.6, 0.35, n, _SPOTS)
    center = torch.stack([0.37 * angle.cos(), 0.37 * angle.sin(), height], dim=-1)
    inverse = torch.eye(3) / uniform(0.04, 0.12, n, _SPOTS)[..., None, None]
    color = uniform(0, 1, n, _SPOTS, 3) * 0.25 + 0.75 * uniform(0, 1, n, _SPOTS, 1).round()
    return Ellipsoids(center, inverse, color, uniform(0, 1, n, _SPOTS) < 0.3)


def _clutter(n: int, uniform: Callable[..., Tensor]) -> Ellipsoids:
    """On half of the creatures a heap of balls in two or three colours: a badly distilled backpack.

    It lies on the body or low on the head, so that it seldom hides a face.
    """
    angle, height = uniform(0, 2 * math.pi, n, 1), uniform(-0.55, 0.15, n, 1)
    around, size = uniform(-0.2, 0.2, n, _CLUTTER, 3), uniform(0.05, 0.16, n, _CLUTTER)
    middle = torch.stack([0.38 * angle.cos(), 0.38 * angle.sin(), height], dim=-1)
    palette = uniform(0, 1, n, 3, 3)
    chosen = uniform(0, 3, n, _CLUTTER).long()[..., None].expand(-1, -1, 3)
    color = (palette.gather(1, chosen) + uniform(-0.1, 0.1, n, _CLUTTER, 3)).clamp(0, 1)
    present = (uniform(0, 1, n, 1) < 0.5) & (uniform(0, 1, n, _CLUTTER) < 0.8)
    return Ellipsoids(middle + around, torch.eye(3) / size[..., None, None], color, present)


def _compact(objects: Ellipsoids) -> Ellipsoids:
    """Filled slots first, and no more slots than the fullest object needs."""
    order = (~objects.present).int().argsort(dim=1, stable=True)
    order = order[:, : int(objects.present.sum(dim=1).max())]
    return objects[torch.arange(len(order))[:, None], order]
