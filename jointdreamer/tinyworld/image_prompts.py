"""What the tiny ImageDream sees: views from every side, and a picture of the object as its prompt.

The picture is from near the front, at the views' elevation, cut out, centred and on plain gray, as
`system.prompt_processor.image` gives it; and the gray is as bright as the views' backgrounds are.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from threestudio_jointdreamer.priors.imagedream import ImageDream, ImagePrompt
from threestudio_jointdreamer.priors.latent_prior import LatentPrior
from threestudio_jointdreamer.prompts.image import OBJECT_SHARE
from torch import Tensor

from .captions import captions
from .creatures import build, sample_creatures
from .dataset import (
    ELEVATION_DEG,
    FOVY_DEG,
    RELATIVE_DISTANCE,
    backgrounds,
    chunks,
    render_groups,
    uniform,
)
from .models import N_VIEW
from .renderer import orbit_cameras
from .training import autocast_on_gpu
from .translation import CHUNK, encode_latents, reference_azimuths


@dataclass(frozen=True)
class PromptedViews:
    """N creatures with their accessories, V views of each 360 / V degrees apart.

    Attributes:
        latents: scaled, of the views.
        image: what the model takes in of each creature's picture.
        captions: one per creature.
    """

    latents: Float[Tensor, "N V C h w"]
    image: ImagePrompt
    captions: list[str]
    c2w: Float[Tensor, "N V 4 4"]


@torch.no_grad()
def prompted_views(
    n: int, seed: int, model: ImageDream, vae: LatentPrior, n_view: int = N_VIEW
) -> PromptedViews:
    """Renders and encodes `n` creatures, on the model's device and in bfloat16."""
    device = model.prior.device
    generator = torch.Generator(device).manual_seed(seed)
    creatures = sample_creatures(n, generator, 0.5, 0.5)
    azimuth = uniform((n, 1), -180.0, 180.0, generator)
    azimuth = azimuth + torch.arange(n_view, device=device) * (360.0 / n_view)
    azimuth = torch.cat([azimuth, reference_azimuths(n, generator)[:, None]], dim=1)
    elevation, fovy, distance = (
        uniform((n, 1), *limits, generator).expand(n, n_view + 1)
        for limits in (ELEVATION_DEG, FOVY_DEG, RELATIVE_DISTANCE)
    )
    distance = distance / torch.tan(fovy / 2 * math.pi / 180)
    c2w = orbit_cameras(*(x.flatten() for x in (azimuth, elevation, distance)))
    c2w = c2w.unflatten(0, (n, n_view + 1))
    behind = backgrounds(n * n_view, generator).unflatten(0, (n, n_view))

    latents, hidden, frames = [], [], []
    for group in chunks(n, CHUNK, "rendering prompted views"):

        def drawn(cameras: slice, background: Tensor, group=group) -> Tensor:
            some = creatures[group]
            return render_groups(
                lambda rows: build(some[rows]),
                c2w[group, cameras].flatten(0, 1),
                fovy[group, cameras].flatten(),
                background.flatten(0, 1),
                background.shape[1],
                encode=lambda rgb: rgb,
            )

        views = drawn(slice(n_view), behind[group])
        picture = slice(n_view, None)
        plain = torch.zeros(group.stop - group.start, 1, 3, device=device)
        cut_out = centred(drawn(picture, plain), drawn(picture, plain + 1))
        gray = behind[group].mean(dim=(1, 2))[:, None, None, None]
        with autocast_on_gpu(device):
            image = model.look_at(cut_out[:, :3] + (1 - cut_out[:, 3:]) * gray, vae)
        latents.append(encode_latents(vae.vae, views))
        hidden.append(image.hidden.bfloat16())
        frames.append(image.latents.bfloat16())
    image = ImagePrompt(torch.cat(hidden), torch.cat(frames))
    views = torch.cat(latents).unflatten(0, (n, n_view))
    return PromptedViews(views, image, captions(creatures, seed), c2w[:, :n_view])


def centred(
    on_black: Float[Tensor, "N 3 S S"], on_white: Float[Tensor, "N 3 S S"]
) -> Float[Tensor, "N 4 S S"]:
    """Objects cut out and centred at one size, out of renders before black and before white.

    Returns:
        Colours times opacity, and opacity.
    """
    opacity = 1 - (on_white - on_black).mean(dim=1, keepdim=True)
    covered, size = opacity[:, 0] > 0.5, opacity.shape[-1]
    boxes = []
    for axis in (1, 2):  # over rows for the columns that it covers, and the other way round
        line = covered.any(dim=axis).float()
        low, high = line.argmax(dim=1), size - line.flip(1).argmax(dim=1)
        boxes.append(torch.stack([low, high], dim=1) * (2.0 / size) - 1)  # in [-1, 1]
    middle = torch.stack(boxes, dim=1).mean(dim=2)  # [N 2], x and y
    half = torch.stack([high - low for low, high in (box.unbind(1) for box in boxes)]).amax(0) / 2
    scale = torch.eye(2, device=half.device) * (half / OBJECT_SHARE)[:, None, None]
    theta = torch.cat([scale, middle[:, :, None]], dim=2)
    rgba = torch.cat([on_black, opacity], dim=1)
    grid = F.affine_grid(theta, list(rgba.shape), align_corners=False)
    return F.grid_sample(rgba, grid, align_corners=False).clamp(0, 1)


@torch.no_grad()
def held_out_losses(
    model: ImageDream, seen: PromptedViews, text: Float[Tensor, "N L D"], seed: int
) -> tuple[float, float]:
    """The error in ε, with the picture and without it; the text is given in both."""
    x, generator = seen.latents.float(), torch.Generator(text.device).manual_seed(seed)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    steps = model.prior.schedule.num_train_timesteps
    t = torch.randint(steps, (len(x),), generator=generator, device=x.device)
    text = text[:, None].expand(-1, x.shape[1], -1, -1)
    hidden, latents = seen.image.hidden.float(), seen.image.latents.float()
    x_t = model.prior.schedule.add_noise(x, noise, t)
    images = ImagePrompt(hidden, latents), ImagePrompt(0 * hidden, 0 * latents)
    both = (model.predict_noise(x_t, t, text, seen.c2w, image) for image in images)
    with_it, without_it = ((eps - noise).square().mean().item() for eps in both)
    return with_it, without_it
