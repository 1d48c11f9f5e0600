"""Synthetic assets: creatures with known faces, to calibrate and test the meter."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..tinyworld.creatures import COLORS, Creatures, sample_creatures
from ..tinyworld.dataset import DEFAULT_BACKGROUND
from ..tinyworld.janus_creatures import with_faces
from ..tinyworld.renderer import orbit_cameras, render
from .views import AZIMUTHS_DEG, ELEVATIONS_DEG

SPLITS = {"train": range(0, 7), "calibrate": range(7, 8), "held-out": range(8, 10)}
FOVY_DEG = 40.0
DISTANCE = 2.75  # 1 / tan(20 degrees): the unit ball fills the frame
APART_DEG = 75.0  # the least angle between faces of an asset
COUNTS = (1, 2, 1, 3, 1, 4, 1, 2, 0, 3)  # faces of the assets, in turn


@dataclass(frozen=True)
class SyntheticAsset:
    """One creature and the azimuths of its faces."""

    creature: Creatures
    faces_deg: tuple[float, ...]


def draw_assets(n: int, split: str, seed: int) -> list[SyntheticAsset]:
    """`n` creatures of a split, each drawn on its own: the first are the same for every `n`.

    Half of the single faces are in front, the others anywhere.
    """
    assets = []
    for index in range(n):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        creature = draw_creatures(1, split, generator)
        count = COUNTS[index % len(COUNTS)]
        faces = draw_faces(torch.tensor([count]), generator, APART_DEG)[0, :count].tolist()
        in_front = count == 1 and index % 4 == 0
        assets.append(SyntheticAsset(creature, (0.0,) if in_front else tuple(faces)))
    return assets


def draw_creatures(n: int, split: str, generator: torch.Generator) -> Creatures:
    """`n` creatures of one split. No combination of attributes is in two splits.

    Args:
        split: a key of `SPLITS`; the combination's number modulo 10 decides.
        generator: on the CPU.
    """
    found: list[Creatures] = []
    while sum(map(len, found)) < n:
        drawn = sample_creatures(max(64, 4 * n), generator)
        found.append(drawn[is_in_split(drawn, split)])
    fields = [vars(part) for part in found]
    return Creatures(**{k: torch.cat([part[k] for part in fields])[:n] for k in fields[0]})


def is_in_split(creatures: Creatures, split: str) -> Bool[Tensor, " N"]:
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


def render_asset(
    asset: SyntheticAsset, size: int = 64, elevations_deg: tuple[float, ...] = ELEVATIONS_DEG
) -> tuple[Float[Tensor, "V size size 3"], Float[Tensor, " V"]]:
    """Frames as the meter takes them of an asset, and their azimuths in degrees."""
    azimuths = torch.tensor(AZIMUTHS_DEG).repeat(len(elevations_deg))
    elevations = torch.tensor(elevations_deg).repeat_interleave(len(AZIMUTHS_DEG))
    c2w = orbit_cameras(azimuths, elevations, torch.full_like(azimuths, DISTANCE))
    return photograph(asset, c2w, size), azimuths


@torch.no_grad()
def photograph(
    asset: SyntheticAsset, c2w: Float[Tensor, "V 4 4"], size: int
) -> Float[Tensor, "V size size 3"]:
    """The creature seen by cameras of `FOVY_DEG`."""
    objects = with_faces(asset.creature, asset.faces_deg)
    objects = objects[:, objects.present[0]]  # leave out empty slots
    behind = torch.tensor(DEFAULT_BACKGROUND)
    frames = []
    for poses in c2w.split(2):
        n = len(poses)
        same = objects[torch.zeros(n, dtype=torch.long)]
        frames.append(render(same, poses, torch.full((n,), FOVY_DEG), behind.expand(n, 3), size))
    return torch.cat(frames).permute(0, 2, 3, 1)
