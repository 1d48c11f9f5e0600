"""What the tiny priors see: mostly frontal pictures of everything; four-view sets of less."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..progress import progress
from .captions import captions
from .creatures import SPECIES, Creatures, Ellipsoids, build, sample_creatures
from .models import IMAGE_SIZE, N_VIEW
from .renderer import orbit_cameras, render

MANY = 1024  # rows; fewer are done before anyone waits
DEFAULT_BACKGROUND = (0.85, 0.85, 0.85)
BACK_DEG = 100.0  # a picture from further round than this shows no face
P_CAPTION_OF_A_BACK = 0.1
ELEVATION_DEG = (-5.0, 35.0)
FOVY_DEG = (35.0, 45.0)
RELATIVE_DISTANCE = (0.9, 1.1)  # times 1 / tan(fovy / 2): at 1 the unit ball fills the frame


@dataclass(frozen=True)
class Pictures:
    """Rendered views and their cameras: N groups of V views (V = 1 for single pictures)."""

    images: Tensor  # what `encode` made of the renders, one row per view
    captions: list[str]  # one per group
    c2w: Float[Tensor, "NV 4 4"]
    creatures: Creatures  # one per group


def uniform(shape, low: float, high: float, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(shape, generator=generator, device=generator.device)
    return low + (high - low) * drawn


def frontal_azimuths(n: int, generator: torch.Generator) -> Float[Tensor, " N"]:
    """Azimuths in degrees as photographers choose them: three in four near the front."""
    frontal = 25.0 * torch.randn(n, generator=generator, device=generator.device)
    anywhere = uniform(n, -180.0, 180.0, generator)
    return torch.where(uniform(n, 0, 1, generator) < 0.75, frontal, anywhere)


def uniform_azimuths(n: int, generator: torch.Generator) -> Float[Tensor, " N"]:
    """Azimuths in degrees, all round."""
    return uniform(n, -180.0, 180.0, generator)


def backgrounds(n: int, generator: torch.Generator) -> Float[Tensor, "N 3"]:
    """Half the pictures have the default light gray behind them, half any plain colour."""
    default = torch.tensor(DEFAULT_BACKGROUND, device=generator.device).expand(n, 3)
    anything = uniform((n, 3), 0, 1, generator)
    return torch.where(uniform((n, 1), 0, 1, generator) < 0.5, default, anything)


def chunks(n: int, size: int, description: str) -> Iterator[slice]:
    """Slices of at most `size` rows of `n`; shows the progress if there are many rows."""
    shown = progress(description, total=n) if n >= MANY else nullcontext(lambda count: None)
    with shown as advance:
        for start in range(0, n, size):
            rows = slice(start, min(n, start + size))
            yield rows
            advance(rows.stop - start)


def to_bytes(rgb: Float[Tensor, "B 3 H W"]) -> UInt8[Tensor, "B 3 H W"]:
    return (rgb * 255).round().to(torch.uint8)


def render_groups(
    objects: Callable[[slice], Ellipsoids],
    c2w: Float[Tensor, "NV 4 4"],
    fovy_deg: Float[Tensor, " NV"],
    background: Float[Tensor, "NV 3"],
    n_view: int,
    encode: Callable[[Tensor], Tensor] = to_bytes,
    image_size: int = IMAGE_SIZE,
) -> Tensor:
    """What `encode` makes of renders [B 3 H W] of N objects from V cameras each, a row per view.

    `objects(rows)` makes some of the N objects.
    """
    images = []
    at_once = (256 if c2w.is_cuda else 16) * IMAGE_SIZE**2 // image_size**2
    size = max(1, at_once // n_view)
    for group in chunks(len(c2w) // n_view, size, "rendering"):
        some = objects(group)
        some = some[:, some.present.any(dim=0)]
        views = torch.arange(len(some.center), device=c2w.device).repeat_interleave(n_view)
        rows = slice(group.start * n_view, group.stop * n_view)
        rgb = render(some[views], c2w[rows], fovy_deg[rows], background[rows], image_size)
        images.append(encode(rgb))
    return torch.cat(images)


@torch.no_grad()
def make_pictures(
    n: int,
    seed: int,
    device: torch.device | str,
    n_view: int = 1,
    azimuths: Callable[[int, torch.Generator], Tensor] = uniform_azimuths,
    show_accessories: bool = True,
    p_caption_of_a_back: float = 1.0,
    species: Sequence[str] = SPECIES,
    encode: Callable[[Tensor], Tensor] = to_bytes,
) -> Pictures:
    """Renders `n` captioned groups of `n_view` views, evenly spaced in azimuth.

    Args:
        n_view: views per group, 360 / n_view degrees apart; they share elevation, field of view
            and distance.
        azimuths: draws the first view's azimuth.
        show_accessories: whether hats and backpacks are rendered. With False, three captions in
            ten still mention each, as web captions mention what a 3D asset lacks: a model that
            learns from them learns to ignore the words.
        p_caption_of_a_back: how often a group whose first view is of a back keeps its caption; the
            others have the empty one, as nobody writes captions for pictures of backs.
        species: of the creatures.
        encode: maps rgb [B 3 H W] in [0, 1] to what is stored.
    """
    generator = torch.Generator(device).manual_seed(seed)
    p_mention = 0.5 if show_accessories else 0.3
    creatures = sample_creatures(n, generator, p_mention, p_mention, species)
    texts = captions(creatures, seed)
    shown = creatures if show_accessories else creatures.without_accessories()

    cameras = n_view, azimuths, p_caption_of_a_back
    seen = photograph(lambda rows: build(shown[rows]), texts, generator, *cameras, encode)
    return Pictures(*seen, creatures)


def photograph(
    objects: Callable[[slice], Ellipsoids],
    texts: list[str],
    generator: torch.Generator,
    n_view: int,
    azimuths: Callable[[int, torch.Generator], Tensor],
    p_caption_of_a_back: float,
    encode: Callable[[Tensor], Tensor],
    image_size: int = IMAGE_SIZE,
) -> tuple[Tensor, list[str], Float[Tensor, "NV 4 4"]]:
    """What `encode` makes of a group of views for each text, the captions and the cameras."""
    n, device = len(texts), generator.device
    first = azimuths(n, generator)
    step = torch.arange(n_view, device=device) * (360.0 / n_view)
    azimuth = (first[:, None] + step).flatten()
    if p_caption_of_a_back < 1:
        is_back = ((first + 180) % 360 - 180).abs() > BACK_DEG
        omitted = is_back & (uniform(n, 0, 1, generator) >= p_caption_of_a_back)
        texts = ["" if no else text for text, no in zip(texts, omitted.tolist(), strict=True)]
    elevation = uniform(n, *ELEVATION_DEG, generator).repeat_interleave(n_view)
    fovy = uniform(n, *FOVY_DEG, generator).repeat_interleave(n_view)
    distance = uniform(n, *RELATIVE_DISTANCE, generator).repeat_interleave(n_view)
    c2w = orbit_cameras(azimuth, elevation, distance / torch.tan(fovy / 2 * math.pi / 180))
    behind = backgrounds(n * n_view, generator)

    images = render_groups(objects, c2w, fovy, behind, n_view, encode, image_size)
    return images, texts, c2w


def single_pictures(n: int, seed: int, device, **kwargs) -> Pictures:
    """What the 2D prior learns from: mostly fronts, and backs that hardly ever have a caption."""
    frontal = {"azimuths": frontal_azimuths, "p_caption_of_a_back": P_CAPTION_OF_A_BACK}
    return make_pictures(n, seed, device, **frontal, **kwargs)


def four_view_sets(n: int, seed: int, device, **kwargs) -> Pictures:
    """What the multi-view prior learns from: every camera, no hats and no backpacks."""
    return make_pictures(n, seed, device, n_view=N_VIEW, show_accessories=False, **kwargs)
