"""Scenes: two creatures side by side that face the same way, and what the scene priors see."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from .captions import captions
from .creatures import COLORS, SPECIES, Ellipsoids, build, sample_creatures
from .dataset import P_CAPTION_OF_A_BACK, Pictures, frontal_azimuths, photograph, uniform_azimuths
from .models import IMAGE_SIZE, LATENT_SIZE, N_VIEW

SCENE_SIZE = 3 * IMAGE_SIZE // 2  # pixels, of pictures of scenes
SCENE_LATENT_SIZE = 3 * LATENT_SIZE // 2
SCALE = IMAGE_SIZE / SCENE_SIZE  # of creatures: as many pixels as one alone in a smaller picture
PLACES = ((0.0, -0.45, 0.0), (0.0, 0.45, 0.0))  # of the first and the second: left and right
AND = " and "  # the shipped text encoder knows it; it has never seen "beside"


def parts_of(prompt: str) -> tuple[str, str]:
    """The prompts of the two creatures of "a red bear and a blue cat".

    Raises:
        ValueError: it does not join two.
    """
    first, found, second = prompt.partition(AND)
    if not found or AND in second:
        raise ValueError(f"prompt={prompt!r} is no scene: join two creatures by {AND!r}.")
    return first, second


def put(objects: Ellipsoids, place: Float[Tensor, "#N 3"]) -> Ellipsoids:
    """The objects as large as they are in a scene, moved to a place."""
    center = SCALE * objects.center + place[:, None]
    return replace(objects, center=center, inverse=objects.inverse / SCALE)


@torch.no_grad()
def make_scenes(
    n: int,
    seed: int,
    device: torch.device | str,
    n_view: int = 1,
    azimuths: Callable[[int, torch.Generator], Tensor] = uniform_azimuths,
    show_accessories: bool = True,
    p_caption_of_a_back: float = 1.0,
    species: Sequence[str] = SPECIES,
    *,
    encode: Callable[[Tensor], Tensor],
) -> Pictures:
    """As `make_pictures`, but half of the groups show two creatures, in two colours and without
    accessories or bellies; the others, which come last, one in the middle.
    """
    generator = torch.Generator(device).manual_seed(seed)
    alone = torch.arange(n, device=device) >= n // 2
    p_mention = 0.5 if show_accessories else 0.3
    first = sample_creatures(n, generator, p_mention, p_mention, species)
    second = sample_creatures(n, generator, 0, 0, species)
    step = torch.randint(1, len(COLORS), (n,), generator=generator, device=device)
    hat, backpack = (x.masked_fill(~alone, -1) for x in (first.hat, first.backpack))
    first = replace(first, belly=first.belly & alone, hat=hat, backpack=backpack)
    second = replace(second, belly=second.belly & False, color=(first.color + step) % len(COLORS))
    both = zip(captions(first, seed), captions(second, seed), alone.tolist(), strict=True)
    texts = [one if is_alone else one + AND + other for one, other, is_alone in both]
    shown = first if show_accessories else first.without_accessories()
    left, right = torch.tensor(PLACES, device=device)[:, None]

    def objects(rows: slice) -> Ellipsoids:
        is_alone = alone[rows, None]
        ours = put(build(shown[rows]), left.masked_fill(is_alone, 0))
        theirs = put(build(second[rows]), right)
        return ours.join(replace(theirs, present=theirs.present & ~is_alone))

    cameras = n_view, azimuths, p_caption_of_a_back
    return Pictures(*photograph(objects, texts, generator, *cameras, encode, SCENE_SIZE), first)


def frontal_scenes(n: int, seed: int, device, **kwargs) -> Pictures:
    """What the 2D prior learns from: mostly fronts, and backs that hardly ever have a caption."""
    frontal = {"azimuths": frontal_azimuths, "p_caption_of_a_back": P_CAPTION_OF_A_BACK}
    return make_scenes(n, seed, device, **frontal, **kwargs)


def four_view_scenes(n: int, seed: int, device, **kwargs) -> Pictures:
    """What the multi-view prior learns from: every camera, no hats and no backpacks."""
    return make_scenes(n, seed, device, n_view=N_VIEW, show_accessories=False, **kwargs)
