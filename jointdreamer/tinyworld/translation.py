"""The tiny image-to-views prior, in Wonder3D's form: its image encoder, data and losses.

Of the two forms that `jsd-translation-energy` knows, Wonder3D's suits this world better than
Zero-1-to-3's: our views are four of Wonder3D's six, 90 degrees apart, and attention across views
lets a small model agree with itself about what the reference does not show. It is the model of
Wonder3D's first training stage, for colours alone. The camera embedding has no elevation: the views
of an object share theirs, and the model reads it off the reference.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from jaxtyping import Float
from threestudio_jointdreamer.priors.image_prior import (
    CLIP_MEAN,
    CLIP_STD,
    Cameras,
    ImagePrior,
    Reference,
)
from torch import Tensor
from transformers import CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from .dataset import chunks, make_pictures, uniform
from .models import N_VIEW
from .training import autocast_on_gpu

# How far from the front a reference may be seen. `reference: frontal` stays within 45 degrees of
# it, since four views are 90 degrees apart. A model that knows the reference for a front puts no
# face on another side, however little it can make out in it.
REFERENCE_DEG = 60.0
CHUNK = 128  # objects rendered and encoded at a time
P_SOFT = 0.5


def reference_azimuths(n: int, generator: torch.Generator) -> Float[Tensor, " N"]:
    """Azimuths in degrees, evenly within `REFERENCE_DEG` of the front."""
    return uniform(n, -REFERENCE_DEG, REFERENCE_DEG, generator)


@torch.no_grad()
def view_sets(
    n: int, seed: int, image_prior: ImagePrior, n_view: int = N_VIEW
) -> tuple[Float[Tensor, "N V C h w"], Reference]:
    """Renders `n` creatures with the accessories of their captions, and encodes the views.

    Half of the references are `soft`: during distillation the reference is an unfinished NeRF.

    Args:
        image_prior: encodes with its VAE and image encoder, on its device.
        n_view: views per creature, at equal steps of azimuth.

    Returns:
        Scaled latents of the views, and what the prior takes in of the first one; in bfloat16.
    """
    prior = image_prior.prior
    generator = torch.Generator(prior.device).manual_seed(seed)
    latents, embeddings, references = [], [], []
    for group in chunks(n, CHUNK, "rendering view sets"):
        count = group.stop - group.start
        drawn = torch.randint(2**31, (), generator=generator, device=prior.device)
        pictures = make_pictures(
            count, int(drawn), prior.device, n_view=n_view, azimuths=reference_azimuths
        )
        rgb = pictures.images.float() / 255
        seen = rgb[::n_view]
        is_soft = uniform((count, 1, 1, 1), 0, 1, generator) < P_SOFT
        with autocast_on_gpu(prior.device):
            reference = image_prior.look_at(torch.where(is_soft, soft(seen, generator), seen))
        latents.append(encode_latents(prior.vae, rgb))
        embeddings.append(reference.embedding.bfloat16())
        references.append(reference.latents.bfloat16())
    reference = Reference(torch.cat(embeddings), torch.cat(references))
    return torch.cat(latents).unflatten(0, (n, n_view)), reference


def encode_latents(vae: AutoencoderKL, rgb: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
    """Scaled mean latents of pictures in [0, 1], in bfloat16."""
    with autocast_on_gpu(rgb.device):
        mean = vae.encode(rgb * 2 - 1).latent_dist.mean
    return (mean * vae.config.scaling_factor).bfloat16()


def soft(
    pictures: Float[Tensor, "N 3 H W"], generator: torch.Generator
) -> Float[Tensor, "N 3 H W"]:
    """Pictures as an unfinished NeRF would show them: coarse, see-through and noisy.

    Args:
        pictures: colours in [0, 1] before a plain background, with 8 n pixels along an edge.
        generator: of the draws, on the pictures' device.
    """
    n, size = len(pictures), pictures.shape[-1]
    rows = torch.arange(n, device=pictures.device)

    def up_to(most: float) -> Float[Tensor, "N 1 1 1"]:
        return uniform((n, 1, 1, 1), 0, most, generator)

    finer_to_coarser = [pictures] + [
        F.interpolate(F.avg_pool2d(pictures, block), (size, size), mode="bilinear")
        for block in (2, 4, 8)
    ]
    level = torch.randint(4, (n,), generator=generator, device=pictures.device)
    coarse = torch.stack(finer_to_coarser)[level, rows]
    background = pictures[:, :, :1, :1].expand_as(pictures)
    noise = torch.randn(pictures.shape, generator=generator, device=pictures.device)
    return (coarse.lerp(background, up_to(0.5)) + up_to(0.06) * noise).clamp(0, 1)


@torch.no_grad()
def image_encoder_of(clip: CLIPModel) -> CLIPVisionModelWithProjection:
    """CLIP's image tower, made for pictures that are normalised as CLIP's usually are.

    The tiny CLIP was trained on pictures p in [-1, 1]. With p = a q + b for each channel of the
    usual q, its first layer takes in q exactly if a scales the weights and the b of all pixels,
    which are the same in every patch, go into the patches' position embeddings.
    """
    config = clip.config.vision_config.to_dict() | {"projection_dim": clip.config.projection_dim}
    encoder = CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(config))
    encoder = encoder.to(clip.device, clip.dtype).eval()
    encoder.vision_model.load_state_dict(clip.vision_model.state_dict())
    encoder.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    embeddings = encoder.vision_model.embeddings
    weight = embeddings.patch_embedding.weight
    scale, shift = 2 * weight.new_tensor(CLIP_STD), 2 * weight.new_tensor(CLIP_MEAN) - 1
    embeddings.position_embedding.weight[1:] += weight.sum(dim=(2, 3)) @ shift
    weight *= scale.view(1, 3, 1, 1)
    return encoder


def ring_of_cameras(n: int, n_view: int, device: torch.device) -> Cameras:
    """The cameras of `n` objects at equal steps of azimuth, the reference's first."""
    views = torch.zeros(n, n_view, 3, device=device)
    views[..., 1] = torch.arange(n_view, device=device) * (360.0 / n_view)
    views[..., 2] = 1.0
    return Cameras(views, views[:, :1])


@torch.no_grad()
def held_out_losses(image_prior: ImagePrior, n: int, seed: int) -> tuple[float, float]:
    """The error in ε on `n` new creatures, of the views that are not the reference: with it, and
    without it.
    """
    prior, (latents, reference) = image_prior.prior, view_sets(n, seed, image_prior)
    x, generator = latents.float(), torch.Generator(prior.device).manual_seed(seed)
    noise = torch.randn(x.shape, generator=generator, device=prior.device)
    steps = prior.schedule.num_train_timesteps
    t = torch.randint(steps, (n,), generator=generator, device=prior.device)
    both = image_prior.predict_noise(
        prior.schedule.add_noise(x, noise, t),
        t,
        Reference(reference.embedding.float(), reference.latents.float()),
        ring_of_cameras(*x.shape[:2], prior.device),
        guided=True,
    )
    with_it, without_it = ((eps - noise)[:, 1:].square().mean().item() for eps in both)
    return with_it, without_it
