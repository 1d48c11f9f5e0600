"""Assets with known faces, to calibrate and test the meter: creatures with planted faces."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..tinyworld.creatures import Creatures
from ..tinyworld.dataset import DEFAULT_BACKGROUND
from ..tinyworld.janus_creatures import with_faces
from ..tinyworld.renderer import orbit_cameras, render
from .face_pictures import draw_creatures, draw_faces
from .views import AZIMUTHS_DEG, ELEVATIONS_DEG

FOVY_DEG = 40.0
DISTANCE = 2.75  # 1 / tan(20 degrees): the unit ball fills the frame
APART_DEG = 75.0  # the least angle between planted faces


@dataclass(frozen=True)
class Planted:
    """One creature and the azimuths of its faces."""

    creature: Creatures
    faces_deg: tuple[float, ...]

    @property
    def janus(self) -> bool:
        return len(self.faces_deg) > 1


_COUNTS = (1, 2, 1, 3, 1, 4, 1, 2, 0, 3)  # faces, in turn


def draw_planted(n: int, split: str, seed: int) -> list[Planted]:
    """`n` creatures of a split, each drawn on its own: the first are the same for every `n`.

    Of every ten, four have one face, five have two to four, one has none. Half of the single faces
    are in front, the others anywhere.
    """
    return [_draw_one(index, split, seed) for index in range(n)]


def _draw_one(index: int, split: str, seed: int) -> Planted:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
    creature = draw_creatures(1, split, generator)
    count = _COUNTS[index % len(_COUNTS)]
    faces = draw_faces(torch.tensor([count]), generator, APART_DEG)[0]
    in_front = count == 1 and index % 4 == 0
    azimuths = [0.0] if in_front else [a for a in faces.tolist() if not math.isnan(a)]
    return Planted(creature, tuple(azimuths))


@torch.no_grad()
def render_planted(
    planted: Planted, size: int = 64, elevations_deg: tuple[float, ...] = ELEVATIONS_DEG
) -> tuple[Float[Tensor, "V size size 3"], Float[Tensor, " V"]]:
    """Frames as the meter takes them of an asset, and their azimuths in degrees."""
    azimuths = torch.tensor(AZIMUTHS_DEG).repeat(len(elevations_deg))
    elevations = torch.tensor(elevations_deg).repeat_interleave(len(AZIMUTHS_DEG))
    c2w = orbit_cameras(azimuths, elevations, torch.full_like(azimuths, DISTANCE))
    return photograph(planted, c2w, size), azimuths


def photograph(
    planted: Planted, c2w: Float[Tensor, "V 4 4"], size: int
) -> Float[Tensor, "V size size 3"]:
    """The creature seen by cameras of `FOVY_DEG`."""
    objects = with_faces(planted.creature, planted.faces_deg)
    objects = objects[:, objects.present[0]]  # leave out empty slots
    behind = torch.tensor(DEFAULT_BACKGROUND)
    frames = []
    for poses in c2w.split(2):
        n = len(poses)
        same = objects[torch.zeros(n, dtype=torch.long)]
        frames.append(render(same, poses, torch.full((n,), FOVY_DEG), behind.expand(n, 3), size))
    return torch.cat(frames).permute(0, 2, 3, 1)
