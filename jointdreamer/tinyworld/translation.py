"""The tiny image-to-views prior: Wonder3D's form at small width, and the stage that trains it.

Of the two forms that `jsd-translation-energy` knows, Wonder3D's suits this world better than
Zero-1-to-3's: our views are four of Wonder3D's six, 90 degrees apart, and attention across views
lets a small model agree with itself about what the reference does not show. It is the model of
Wonder3D's first training stage, for colours alone. The camera embedding has no elevation: the views
of an object share theirs, and the model reads it off the reference.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from jaxtyping import Float, Int
from threestudio_jointdreamer.priors.image_prior import (
    CLIP_MEAN,
    CLIP_STD,
    Cameras,
    ImagePrior,
    ImagePriorOptions,
    Reference,
    repeat_views,
)
from threestudio_jointdreamer.priors.latent_prior import LatentPrior
from threestudio_jointdreamer.priors.loading import load_model
from threestudio_jointdreamer.priors.multiview import use_cross_view_attention
from threestudio_jointdreamer.priors.schedule import NoiseSchedule
from threestudio_jointdreamer.priors.wonder3d import (
    COLOURS,
    EMBEDDED_ANGLES,
    Wonder3D,
    camera_and_domain,
)
from threestudio_jointdreamer.priors.wonder3d_unet import CAMERA_DIM, Wonder3DUNet
from threestudio_jointdreamer.weights.files import replacing_folder
from torch import Tensor, nn
from transformers import CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from . import models
from .training import Trainer, TrainingPlan
from .translation_data import ViewSets, view_sets

LATENT_CHANNELS = 4
P_NO_REFERENCE = 0.1  # how often the reference is left out, for classifier-free guidance
HELD_OUT = 256  # creatures that the report's losses are measured on


def build_unet() -> Wonder3DUNet:
    """2 M parameters: two levels, attention across views at both."""
    config = {
        "sample_size": models.LATENT_SIZE,
        "in_channels": 2 * LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "block_out_channels": [64, 72],
        "layers_per_block": 1,
        "attention_head_dim": [2, 3],
        "cross_attention_dim": models.TEXT_WIDTH,
        "norm_num_groups": 8,
        "use_linear_projection": True,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": CAMERA_DIM,
        "num_views": models.N_VIEW,
        "cd_attention_mid": False,
    }
    return use_cross_view_attention(Wonder3DUNet.from_config(config), models.N_VIEW)


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


def predict_noise(
    unet: Wonder3DUNet,
    x_t: Float[Tensor, "N V C h w"],
    t: Int[Tensor, " N"],
    reference: Reference,
    labels: Float[Tensor, "V 10"],
) -> Float[Tensor, "N V C h w"]:
    """What `Wonder3D.predict_noise` computes, without looking at the cameras.

    That waits for the GPU, which a CUDA graph may not.
    """
    n, n_view = x_t.shape[:2]
    condition = repeat_views(reference.latents, n_view)
    sample = torch.cat([x_t.flatten(0, 1), condition], dim=1)
    eps = unet(
        sample.contiguous(memory_format=torch.channels_last),
        repeat_views(t, n_view),
        repeat_views(reference.embedding, n_view)[:, None],
        class_labels=labels.repeat(n, 1),
    ).sample
    return eps.unflatten(0, (n, n_view))


def view_labels(image_prior: Wonder3D, n_view: int) -> Float[Tensor, "V 10"]:
    """The class embedding's input for each view of a ring, the reference's first."""
    device = image_prior.prior.device
    places = image_prior.places(ring_of_cameras(1, n_view, device))[0]
    angles = torch.tensor(EMBEDDED_ANGLES, dtype=torch.float16, device=device).float()
    return camera_and_domain(angles[places], COLOURS)


@torch.no_grad()
def losses(image_prior: ImagePrior, sets: ViewSets, seed: int) -> tuple[float, float]:
    """The error in ε of the views that are not the reference: with it, and without it."""
    prior = image_prior.prior
    generator = torch.Generator(prior.device).manual_seed(seed)
    errors = []
    for rows in torch.arange(len(sets), device=prior.device).split(64):
        x = sets.latents[rows].float()
        noise = torch.randn(x.shape, generator=generator, device=prior.device)
        steps = prior.schedule.num_train_timesteps
        t = torch.randint(steps, (len(x),), generator=generator, device=prior.device)
        seen = Reference(
            sets.reference.embedding[rows].float(), sets.reference.latents[rows].float()
        )
        cameras = ring_of_cameras(*x.shape[:2], prior.device)
        noisy = prior.schedule.add_noise(x, noise, t)
        for eps in image_prior.predict_noise(noisy, t, seen, cameras, guided=True):
            errors.append((eps - noise)[:, 1:].square().mean(dim=(1, 2, 3, 4)))
    return torch.cat(errors[::2]).mean().item(), torch.cat(errors[1::2]).mean().item()


def train_wonder3d(
    root: Path, plan: TrainingPlan, n_pictures: int, batch: int, device: str
) -> dict:
    """Trains the image-to-views prior on dressed creatures; needs the vae and clip stages.

    Args:
        n_pictures: creatures, of which there are four views each.

    Returns:
        Beside the trainer's report, the loss on creatures that were not trained on, with and
        without the reference.

    Raises:
        FileNotFoundError: the autoencoder or CLIP is not in `root`.
    """
    torch.manual_seed(plan.seed + 3)
    vae = _load(AutoencoderKL, root, "stable-diffusion/vae", "vae", device)
    encoder = image_encoder_of(_load(CLIPModel, root, "clip", "clip", device)).requires_grad_(False)
    unet = build_unet().to(device, memory_format=torch.channels_last).train()
    scheduler = models.build_scheduler()
    schedule = NoiseSchedule(scheduler.alphas_cumprod, scheduler.config.prediction_type)
    prior = LatentPrior(unet, schedule, vae, condition_channels=LATENT_CHANNELS)
    image_prior = Wonder3D(prior, encoder, ImagePriorOptions())
    sets = view_sets(n_pictures, plan.seed + 15, image_prior)
    labels = view_labels(image_prior, sets.latents.shape[1])

    def loss() -> Tensor:
        rows = torch.randint(len(sets), (batch,), device=device)
        t = torch.randint(schedule.num_train_timesteps, (batch,), device=device)
        keep = (torch.rand(batch, 1, device=device) >= P_NO_REFERENCE).float()
        seen = Reference(
            sets.reference.embedding[rows] * keep,
            sets.reference.latents[rows] * keep[:, :, None, None],
        )
        x = sets.latents[rows].float()
        noise = torch.randn_like(x)
        noisy = prior.schedule.add_noise(x, noise, t)
        return F.mse_loss(predict_noise(unet, noisy, t, seen, labels).float(), noise)

    report = Trainer({"unet": unet}, loss, plan, root / ".wonder3d.state").run("wonder3d")
    unet.eval()
    held_out = view_sets(min(HELD_OUT, n_pictures), plan.seed + 16, image_prior)
    with_it, without_it = losses(image_prior, held_out, plan.seed)
    report |= {"held_out_loss": with_it, "held_out_loss_without_reference": without_it}
    with replacing_folder(root / "wonder3d", overwrite=True) as folder:
        unet.to(memory_format=torch.contiguous_format).half().save_pretrained(folder / "unet")
        encoder.half().save_pretrained(folder / "image_encoder")
        scheduler.save_pretrained(folder / "scheduler")
    return report


def _load(
    model_class: type[nn.Module], root: Path, folder: str, stage: str, device: str
) -> nn.Module:
    if not (root / folder).is_dir():
        raise FileNotFoundError(
            f"{root / folder} is not there: run `jointdreamer tinyworld train {stage}` with the "
            "same --root first."
        )
    return load_model(model_class, str(root), folder, torch.device(device), torch.float32, "--root")
