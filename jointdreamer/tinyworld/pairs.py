"""Groups of views of creatures for the pair classifier: as they are, and as Janus makes them."""

import math

import torch
from jaxtyping import Bool, Float
from rich.progress import track
from torch import Tensor

from .captions import captions
from .creatures import Creatures, Ellipsoids, build, sample_creatures
from .dataset import ELEVATION_DEG, FOVY_DEG, RELATIVE_DISTANCE, backgrounds
from .denoised import Denoiser
from .janus_creatures import with_faces
from .models import IMAGE_SIZE, N_VIEW
from .renderer import orbit_cameras, render

FACES_APART_DEG = 60.0  # the least angle between planted faces
FACE_OFFSET_DEG = 40.0  # the most by which a planted face looks past its camera


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
def make_groups(
    n: int,
    seed: int,
    device: torch.device | str,
    held_out: bool = False,
    n_view: int = N_VIEW,
    denoiser: Denoiser | None = None,
) -> dict[str, Tensor]:
    """Renders `n` creatures from `n_view` cameras each, and once more with faces of Janus.

    Half of the groups are seen from a ring of one elevation, as jsd-guidance's views are; in the
    others every camera is anywhere. A Janus-made creature has a face planted where each camera sees
    it, all by the same offset, as a prior that knows the front only makes them; in half of them for
    every other camera only, so that one picture of faces back to back tells nothing.

    Args:
        n: number of groups.
        seed: everything is drawn from it.
        device: where to render and keep the result.
        held_out: draw the creatures that training never sees.
        n_view: views per group.
        denoiser: shows the views once more, as it denoises them.

    Returns:
        On `device`, images [n V 3 H W] and janus [n V 3 H W] (uint8), c2w [n V 4 4], and face_deg
        [n V], the azimuth of the planted face that a view of `janus` was given; NaN where it was
        given none, or another's was too near. With `denoiser` also denoised_images and
        denoised_janus.
    """
    device = torch.device(device)
    generator = torch.Generator(device).manual_seed(seed)
    creatures = sample_split(n, held_out, generator)

    def uniform(columns: int, low: float, high: float) -> Tensor:
        drawn = torch.rand(n, columns, generator=generator, device=device)
        return (low + (high - low) * drawn).expand(n, n_view)

    ring = uniform(1, 0, 1) < 0.5
    steps = torch.arange(n_view, device=device) * (360.0 / n_view)
    azimuth = torch.where(ring, uniform(1, -180, 180) + steps, uniform(n_view, -180, 180))
    elevation = torch.where(ring, uniform(1, *ELEVATION_DEG), uniform(n_view, *ELEVATION_DEG))
    fovy = uniform(1, *FOVY_DEG).flatten()
    distance = uniform(1, *RELATIVE_DISTANCE).flatten() / torch.tan(fovy / 2 * math.pi / 180)
    c2w = orbit_cameras(azimuth.flatten(), elevation.flatten(), distance)
    behind = backgrounds(n * n_view, generator)
    face = azimuth + uniform(1, -FACE_OFFSET_DEG, FACE_OFFSET_DEG)
    few = uniform(1, 0, 1) < 0.5
    face = _apart(face.masked_fill(few & (torch.arange(n_view, device=device) % 2 == 1), math.nan))

    chunk = max(1, (256 if device.type == "cuda" else 16) // n_view)
    images, janus = [], []
    for start in track(range(0, n, chunk), "rendering pairs", disable=n < 512):
        group = slice(start, start + chunk)
        rows = slice(start * n_view, (start + chunk) * n_view)
        cameras = c2w[rows], fovy[rows], behind[rows]
        images.append(_photograph(build(creatures[group]), *cameras))
        janus.append(_photograph(with_faces(creatures[group], face[group]), *cameras))
    unflat = (n, n_view)
    groups = {
        "images": torch.cat(images).unflatten(0, unflat),
        "janus": torch.cat(janus).unflatten(0, unflat),
    }
    if denoiser is not None:
        texts = captions(creatures, seed)
        groups |= {
            f"denoised_{name}": denoiser.denoise(views, texts, seed)
            for name, views in groups.items()
        }
    return groups | {"c2w": c2w.unflatten(0, unflat), "face_deg": face}


def _photograph(objects: Ellipsoids, c2w: Tensor, fovy: Tensor, behind: Tensor) -> Tensor:
    rows = torch.arange(len(objects.center), device=c2w.device)
    views = rows.repeat_interleave(len(c2w) // len(rows))
    rgb = render(objects[views], c2w, fovy, behind, IMAGE_SIZE)
    return (rgb * 255).round().to(torch.uint8)


def _apart(azimuth: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
    """Puts NaN for every azimuth within `FACES_APART_DEG` of one before it that stays."""
    kept = azimuth.clone()
    for v in range(1, azimuth.shape[1]):
        gap = (kept[:, :v] - azimuth[:, v : v + 1] + 180) % 360 - 180
        near = (gap.abs() < FACES_APART_DEG).any(dim=1)  # no NaN is near
        kept[:, v] = torch.where(near, math.nan, azimuth[:, v])
    return kept
