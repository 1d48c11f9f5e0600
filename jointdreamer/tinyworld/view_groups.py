"""Groups of views of creatures for the pair classifier: as they are, and with several faces."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .captions import captions
from .creatures import Creatures, build, sample_creatures
from .dataset import (
    ELEVATION_DEG,
    FOVY_DEG,
    RELATIVE_DISTANCE,
    backgrounds,
    render_groups,
    uniform,
)
from .denoised import Denoiser
from .janus_creatures import with_faces
from .models import N_VIEW
from .renderer import orbit_cameras

FACES_APART_DEG = 60.0  # the least angle between faces
FACE_OFFSET_DEG = 40.0  # the most by which a face looks past its camera


def is_held_out(creatures: Creatures) -> Bool[Tensor, " N"]:
    """Whether creatures are kept from training: one in five combinations of species and colour.

    Training sees every species and every colour, but never these 16 of the 80 together.
    """
    return (creatures.species + 3 * creatures.color) % 5 == 0


def sample_split(n: int, held_out: bool, generator: torch.Generator) -> Creatures:
    """Draws `n` creatures that are kept from training, or that are not."""
    drawn = sample_creatures(8 * n + 64, generator)
    found = drawn[(is_held_out(drawn) == held_out).nonzero()[:n, 0]]
    assert len(found) == n
    return found


@torch.no_grad()
def make_view_groups(
    n: int,
    seed: int,
    device: torch.device | str,
    held_out: bool = False,
    n_view: int = N_VIEW,
    denoiser: Denoiser | None = None,
) -> dict[str, Tensor]:
    """Renders `n` creatures from `n_view` cameras each, and once more with several faces.

    Half of the groups are seen from a ring of one elevation, as jsd-guidance's views are; in the
    others every camera is anywhere. A Janus creature has a face where each camera sees it, all by
    the same offset, as a prior that knows the front only makes them; in half of them for every
    other camera only, so that one picture of faces back to back tells nothing.

    Args:
        held_out: draw the creatures that training never sees.
        denoiser: shows the views once more, as it denoises them.

    Returns:
        On `device`, images [n V 3 H W] and janus [n V 3 H W] (uint8), c2w [n V 4 4], and face_deg
        [n V], the azimuth of the face that a view of `janus` was given; NaN where it was given
        none, or another's was too near. With `denoiser` also denoised_images and denoised_janus.
    """
    device = torch.device(device)
    generator = torch.Generator(device).manual_seed(seed)
    creatures = sample_split(n, held_out, generator)

    def draw(columns: int, low: float, high: float) -> Tensor:
        return uniform((n, columns), low, high, generator).expand(n, n_view)

    ring = draw(1, 0, 1) < 0.5
    steps = torch.arange(n_view, device=device) * (360.0 / n_view)
    azimuth = torch.where(ring, draw(1, -180, 180) + steps, draw(n_view, -180, 180))
    elevation = torch.where(ring, draw(1, *ELEVATION_DEG), draw(n_view, *ELEVATION_DEG))
    fovy = draw(1, *FOVY_DEG).flatten()
    distance = draw(1, *RELATIVE_DISTANCE).flatten() / torch.tan(fovy / 2 * math.pi / 180)
    c2w = orbit_cameras(azimuth.flatten(), elevation.flatten(), distance)
    behind = backgrounds(n * n_view, generator)
    face = azimuth + draw(1, -FACE_OFFSET_DEG, FACE_OFFSET_DEG)
    alternate = (draw(1, 0, 1) < 0.5) & (torch.arange(n_view, device=device) % 2 == 1)
    face = _kept_apart(face.masked_fill(alternate, math.nan))

    views = c2w, fovy, behind, n_view
    images = render_groups(lambda group: build(creatures[group]), *views)
    janus = render_groups(lambda group: with_faces(creatures[group], face[group]), *views)
    groups = {
        name: x.unflatten(0, (n, n_view)) for name, x in (("images", images), ("janus", janus))
    }
    if denoiser is not None:
        texts = captions(creatures, seed)
        groups |= {
            f"denoised_{name}": denoiser.denoise(views, texts, seed)
            for name, views in groups.items()
        }
    return groups | {"c2w": c2w.unflatten(0, (n, n_view)), "face_deg": face}


def _kept_apart(azimuth: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
    """Puts NaN for every azimuth within `FACES_APART_DEG` of one before it that stays."""
    kept = azimuth.clone()
    for v in range(1, azimuth.shape[1]):
        gap = (kept[:, :v] - azimuth[:, v : v + 1] + 180) % 360 - 180
        near = (gap.abs() < FACES_APART_DEG).any(dim=1)  # no NaN is near
        kept[:, v] = torch.where(near, math.nan, azimuth[:, v])
    return kept
