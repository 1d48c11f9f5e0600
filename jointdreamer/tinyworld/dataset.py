"""What the tiny priors see: mostly frontal pictures of everything; four-view sets of less."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from rich.progress import track
from torch import Tensor

from .captions import captions
from .creatures import Creatures, build, sample_creatures
from .models import IMAGE_SIZE, N_VIEW
from .renderer import orbit_cameras, render

DEFAULT_BACKGROUND = (0.85, 0.85, 0.85)
BACK_DEG = 100.0  # a picture from further round than this shows no face
P_CAPTION_OF_A_BACK = 0.1
ELEVATION_DEG = (-5.0, 35.0)
FOVY_DEG = (35.0, 45.0)
RELATIVE_DISTANCE = (0.9, 1.1)  # times 1 / tan(fovy / 2): at 1 the unit ball fills the frame


@dataclass(frozen=True)
class Pictures:
    """Rendered views and their cameras: N groups of V views (V = 1 for single pictures).

    Args:
        images: what `encode` made of the renders, one row per view.
        captions: one per group.
        c2w: camera-to-world matrices, one row per view.
        creatures: one per group.
    """

    images: Tensor
    captions: list[str]
    c2w: Float[Tensor, "NV 4 4"]
    creatures: Creatures


def _uniform(shape, low: float, high: float, generator: torch.Generator) -> Tensor:
    device = generator.device
    return low + (high - low) * torch.rand(shape, generator=generator, device=device)


def frontal_azimuths(n: int, generator: torch.Generator) -> Float[Tensor, " N"]:
    """Azimuths in degrees as photographers choose them: three in four near the front."""
    device = generator.device
    frontal = 25.0 * torch.randn(n, generator=generator, device=device)
    anywhere = _uniform(n, -180.0, 180.0, generator)
    return torch.where(_uniform(n, 0, 1, generator) < 0.75, frontal, anywhere)


def is_back(azimuth_deg: Float[Tensor, "..."]) -> Bool[Tensor, "..."]:
    """Whether cameras at these azimuths, in degrees, look at a creature's back."""
    return ((azimuth_deg + 180) % 360 - 180).abs() > BACK_DEG


def uniform_azimuths(n: int, generator: torch.Generator) -> Float[Tensor, " N"]:
    """Azimuths in degrees, all round."""
    return _uniform(n, -180.0, 180.0, generator)


def backgrounds(n: int, generator: torch.Generator) -> Float[Tensor, "N 3"]:
    """Half the pictures have the default light gray behind them, half any plain colour."""
    device = generator.device
    default = torch.tensor(DEFAULT_BACKGROUND, device=device).expand(n, 3)
    anything = torch.rand(n, 3, generator=generator, device=device)
    return torch.where(_uniform((n, 1), 0, 1, generator) < 0.5, default, anything)


@torch.no_grad()
def make_pictures(
    n: int,
    seed: int,
    device: torch.device | str,
    n_view: int = 1,
    azimuths: Callable[[int, torch.Generator], Tensor] = uniform_azimuths,
    show_accessories: bool = True,
    p_caption_of_a_back: float = 1.0,
    encode: Callable[[Tensor], Tensor] = lambda rgb: (rgb * 255).round().to(torch.uint8),
    chunk: int | None = None,
) -> Pictures:
    """Renders `n` captioned groups of `n_view` views, evenly spaced in azimuth.

    Args:
        n: number of groups.
        seed: everything is drawn from it.
        device: where to render and keep the result.
        n_view: views per group, 360 / n_view degrees apart; they share elevation, field of view
            and distance.
        azimuths: draws the first view's azimuth.
        show_accessories: whether hats and backpacks are rendered. With False, three captions in
            ten still mention each, as web captions mention what a 3D asset lacks: whoever learns
            from them learns to ignore the words.
        p_caption_of_a_back: how often a group whose first view is of a back keeps its caption; the
            others have the empty one, as nobody writes captions for pictures of backs.
        encode: maps rgb [B 3 H W] in [0, 1] to what is stored.
        chunk: groups rendered at a time.
    """
    device = torch.device(device)
    generator = torch.Generator(device).manual_seed(seed)
    chunk = chunk or max(1, (256 if device.type == "cuda" else 16) // n_view)
    p_mention = 0.5 if show_accessories else 0.3
    creatures = sample_creatures(n, generator, p_mention, p_mention)
    texts = captions(creatures, seed)
    shown = creatures if show_accessories else creatures.without_accessories()

    first = azimuths(n, generator)
    step = torch.arange(n_view, device=device) * (360.0 / n_view)
    azimuth = (first[:, None] + step).flatten()
    if p_caption_of_a_back < 1:
        untold = is_back(first) & (_uniform(n, 0, 1, generator) >= p_caption_of_a_back)
        texts = ["" if no else text for text, no in zip(texts, untold.tolist(), strict=True)]
    elevation = _uniform(n, *ELEVATION_DEG, generator).repeat_interleave(n_view)
    fovy = _uniform(n, *FOVY_DEG, generator).repeat_interleave(n_view)
    distance = _uniform(n, *RELATIVE_DISTANCE, generator).repeat_interleave(n_view)
    c2w = orbit_cameras(azimuth, elevation, distance / torch.tan(fovy / 2 * math.pi / 180))
    behind = backgrounds(n * n_view, generator)

    images = []
    for start in track(range(0, n, chunk), "rendering", disable=n * n_view < 4096):
        objects = build(shown[slice(start, start + chunk)])
        views = torch.arange(len(objects.center), device=device).repeat_interleave(n_view)
        rows = slice(start * n_view, start * n_view + len(views))
        rgb = render(objects[views], c2w[rows], fovy[rows], behind[rows], IMAGE_SIZE)
        images.append(encode(rgb))
    return Pictures(torch.cat(images), texts, c2w, creatures)


def single_pictures(n: int, seed: int, device, **kwargs) -> Pictures:
    """The 2D prior's world: every word, mostly frontal, and backs that hardly anyone describes."""
    return make_pictures(
        n,
        seed,
        device,
        azimuths=frontal_azimuths,
        p_caption_of_a_back=P_CAPTION_OF_A_BACK,
        **kwargs,
    )


def four_view_sets(n: int, seed: int, device, **kwargs) -> Pictures:
    """The multi-view prior's world: every camera, no hats and no backpacks."""
    return make_pictures(n, seed, device, n_view=N_VIEW, show_accessories=False, **kwargs)
