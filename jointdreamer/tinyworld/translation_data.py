"""What the tiny image-to-views prior learns from: rings of four views, and a look at the first."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from rich.progress import track
from threestudio_jointdreamer.priors.image_prior import ImagePrior, Reference
from torch import Tensor

from .dataset import make_pictures
from .models import N_VIEW

# How far from the front a reference may be seen. `reference: frontal` stays within 45 degrees of
# it, since four views are 90 degrees apart. A model that knows the reference for a front puts no
# face elsewhere, however little it can make out in it.
REFERENCE_DEG = 60.0
CHUNK = 128  # objects rendered and encoded at a time
P_SOFT = 0.5


@dataclass(frozen=True)
class ViewSets:
    """N objects from V cameras each, at equal steps of azimuth; the first is the reference's.

    Args:
        latents: of the views, scaled.
        reference: what the prior takes in of the first view.
    """

    latents: Float[Tensor, "N V C h w"]
    reference: Reference

    def __len__(self) -> int:
        return len(self.latents)


def reference_azimuths(n: int, generator: torch.Generator) -> Float[Tensor, " N"]:
    """Azimuths in degrees, evenly within `REFERENCE_DEG` of the front."""
    drawn = torch.rand(n, generator=generator, device=generator.device)
    return (2 * drawn - 1) * REFERENCE_DEG


@torch.no_grad()
def view_sets(n: int, seed: int, image_prior: ImagePrior, n_view: int = N_VIEW) -> ViewSets:
    """Renders `n` creatures, dressed as captions would have them, and encodes what is seen.

    Half of the references are `soft`: during distillation the reference is an unfinished NeRF.

    Args:
        n: number of creatures.
        seed: everything is drawn from it.
        image_prior: encodes with its VAE and image encoder, on its device.
        n_view: views per creature.

    Returns:
        Latents and embeddings in bfloat16.
    """
    prior = image_prior.prior
    generator = torch.Generator(prior.device).manual_seed(seed)
    latents, embeddings, references = [], [], []
    for start in track(range(0, n, CHUNK), "rendering view sets", disable=n < 1024):
        count = min(CHUNK, n - start)
        drawn = torch.randint(2**31, (), generator=generator, device=prior.device)
        pictures = make_pictures(
            count, int(drawn), prior.device, n_view=n_view, azimuths=reference_azimuths
        )
        rgb = pictures.images.float() / 255
        seen = rgb[::n_view]
        is_soft = torch.rand(count, 1, 1, 1, generator=generator, device=prior.device) < P_SOFT
        with torch.autocast(
            prior.device.type, dtype=torch.bfloat16, enabled=prior.device.type == "cuda"
        ):
            reference = image_prior.look_at(torch.where(is_soft, soft(seen, generator), seen))
            mean = prior.vae.encode(rgb * 2 - 1).latent_dist.mean
        latents.append((mean * prior.vae.config.scaling_factor).bfloat16())
        embeddings.append(reference.embedding.bfloat16())
        references.append(reference.latents.bfloat16())
    return ViewSets(
        torch.cat(latents).unflatten(0, (n, n_view)),
        Reference(torch.cat(embeddings), torch.cat(references)),
    )


def soft(
    pictures: Float[Tensor, "N 3 H W"], generator: torch.Generator
) -> Float[Tensor, "N 3 H W"]:
    """Pictures as an unfinished NeRF would show them: coarse, see-through and noisy, each its way.

    Args:
        pictures: colours in [0, 1] before a plain background, with 8 n pixels along an edge.
        generator: of the draws, on the pictures' device.
    """
    n, size = len(pictures), pictures.shape[-1]
    rows = torch.arange(n, device=pictures.device)

    def up_to(most: float) -> Float[Tensor, "N 1 1 1"]:
        return most * torch.rand(n, 1, 1, 1, generator=generator, device=pictures.device)

    finer_to_coarser = [pictures] + [
        F.interpolate(F.avg_pool2d(pictures, block), (size, size), mode="bilinear")
        for block in (2, 4, 8)
    ]
    level = torch.randint(4, (n,), generator=generator, device=pictures.device)
    coarse = torch.stack(finer_to_coarser)[level, rows]
    background = pictures[:, :, :1, :1].expand_as(pictures)
    noise = torch.randn(pictures.shape, generator=generator, device=pictures.device)
    return (coarse.lerp(background, up_to(0.5)) + up_to(0.06) * noise).clamp(0, 1)
