"""Draws pictures from the tiny priors, to look at them before anything is distilled from them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from threestudio_jointdreamer.priors import wonder3d  # noqa: F401  (makes it known)
from threestudio_jointdreamer.priors.image_prior import load_image_prior
from threestudio_jointdreamer.priors.imagedream import ImageDream, load_image_encoder
from threestudio_jointdreamer.priors.latent_prior import LatentPrior
from threestudio_jointdreamer.priors.loading import has_part, load_prior
from threestudio_jointdreamer.priors.lora import fuse_lora
from threestudio_jointdreamer.priors.multiview import camera_condition, use_cross_view_attention
from threestudio_jointdreamer.priors.sampling import ddim
from threestudio_jointdreamer.prompts.text_encoder import embed_prompts
from torch import Tensor

from .captions import parse
from .creatures import build
from .dataset import DEFAULT_BACKGROUND
from .image_prompts import centred
from .models import IMAGE_SIZE, N_VIEW
from .renderer import orbit_cameras, render
from .scenes import SCENE_LATENT_SIZE
from .translation import ring_of_cameras

ELEVATION_DEG, DISTANCE, FOVY_DEG = 15.0, 2.7, 40.0  # of all cameras here
SCENE = "scene-"  # before the name of the prior that a scene prior is a LoRA of


def true_views(
    prompts: list[str], azimuth_deg: float = 0.0, n_view: int = N_VIEW
) -> Float[Tensor, "N V 3 H W"]:
    """Renders of the creatures that the prompts describe, at equal steps of azimuth."""
    c2w, fovy = _ring(azimuth_deg, n_view), torch.full((n_view,), FOVY_DEG)
    background = torch.tensor(DEFAULT_BACKGROUND).expand(n_view, 3)
    same = torch.zeros(n_view, dtype=torch.long)
    objects = (build(parse(prompt))[same] for prompt in prompts)
    return torch.stack([render(views, c2w, fovy, background) for views in objects])


def pictures_of(
    prompts: list[str], azimuth_deg: float = 0.0, size: int = IMAGE_SIZE
) -> Float[Tensor, "N 4 size size"]:
    """The creatures that the prompts describe, cut out and centred: colours and opacity."""
    c2w, fovy = _ring(azimuth_deg, 1), torch.full((1,), FOVY_DEG)
    black, white = (
        torch.cat(
            [render(build(parse(p)), c2w, fovy, torch.full((1, 3), x), size) for p in prompts]
        )
        for x in (0.0, 1.0)
    )
    premultiplied, opacity = centred(black, white).tensor_split([3], dim=1)
    return torch.cat([premultiplied / opacity.clamp_min(1e-3), opacity], dim=1).clamp(0, 1)


@torch.no_grad()
def sample(
    root: Path,
    prior: str,
    prompts: list[str],
    seed: int = 0,
    guidance_scale: float = 4.0,
    steps: int = 50,
    azimuth_deg: float = 0.0,
    device: str = "cpu",
) -> Float[Tensor, "N V 3 H W"]:
    """DDIM samples, in [0, 1], from a prior that knows text.

    Args:
        root: folder of the weights.
        prior: "stable-diffusion", "stable-diffusion-3" (V = 1), or "mvdream" (V = 4 views, 90
            degrees apart); after "scene-", that prior for scenes.
        guidance_scale: weight of text over no text; 1 is the plain conditional model.
        azimuth_deg: of the multi-view prior's first camera.

    Raises:
        FileNotFoundError, ValueError: as `load_prior`.
    """
    vae_from, on = str(root / "stable-diffusion"), torch.device(device)
    of_scenes, base = prior.startswith(SCENE), prior.removeprefix(SCENE)
    lora = partial(fuse_lora, name_or_path=str(root / prior), scale=1.0, key="--root")
    change = lora if of_scenes else None
    model = load_prior(str(root / base), on, False, vae_from, key="--root", change=change)
    if of_scenes:
        model.latent_size = SCENE_LATENT_SIZE
    text_from = str(root / base) if has_part(str(root / base), "text_encoder") else vae_from
    n_view, labels = 1, None
    if model.unet.config.get("class_embed_type") is not None:
        n_view = N_VIEW
        use_cross_view_attention(model.unet, n_view)
        labels = camera_condition(_ring(azimuth_deg, n_view).to(on)).repeat(2 * len(prompts), 1)
    texts = embed_prompts(text_from, prompts + [""] * len(prompts), on)
    texts = texts.repeat_interleave(n_view, dim=0)

    def predict_noise(x_t: Tensor, t: Tensor) -> Tensor:
        eps = model.predict_noise(torch.cat([x_t] * 2), t.repeat(2), texts, labels)
        with_text, without = eps.chunk(2)
        return without + guidance_scale * (with_text - without)

    shape = (len(prompts) * n_view,)
    images = _ddim(model, shape, seed, steps, predict_noise)
    return images.unflatten(0, (len(prompts), n_view))


@torch.no_grad()
def sample_views(
    root: Path,
    prior: str,
    truth: Float[Tensor, "N V 3 H W"],
    seed: int = 0,
    guidance_scale: float = 1.5,
    steps: int = 50,
    device: str = "cpu",
) -> Float[Tensor, "N V 3 H W"]:
    """DDIM samples, in [0, 1], of an object's views, given the first of the true ones.

    Args:
        prior: a folder in `root` with an image-to-image prior, `wonder3d`.
        truth: views at equal steps of azimuth, in [0, 1].
        guidance_scale: weight of the reference over none; 1 is the plain conditional model.

    Raises:
        FileNotFoundError, ValueError: as `load_image_prior`.
    """
    vae_from, on = str(root / "stable-diffusion"), torch.device(device)
    model = load_image_prior(str(root / prior), on, False, vae_from=vae_from, key="--root")
    reference = model.look_at(truth[:, 0].to(on))
    cameras = ring_of_cameras(*truth.shape[:2], on)

    def predict_noise(x_t: Tensor, t: Tensor) -> Tensor:
        with_it, without = model.predict_noise(x_t, t, reference, cameras, guided=True)
        return without + guidance_scale * (with_it - without)

    return _ddim(model.prior, truth.shape[:2], seed, steps, predict_noise)


@torch.no_grad()
def sample_prompted_views(
    root: Path,
    prior: str,
    pictures: Float[Tensor, "N 4 H W"],
    texts: list[str],
    seed: int = 0,
    guidance_scale: float = 2.0,
    steps: int = 50,
    azimuth_deg: float = 0.0,
    device: str = "cpu",
) -> Float[Tensor, "N V 3 H W"]:
    """DDIM samples, in [0, 1], of four views of the objects in pictures, 90 degrees apart.

    Args:
        prior: a folder in `root` with an ImageDream model, `imagedream`.
        pictures: colours and opacity, as `read_image_prompt` gives them.
        guidance_scale: weight of picture and text over neither.
        azimuth_deg: of the first camera.

    Raises:
        FileNotFoundError, ValueError: as `load_prior`.
    """
    text_from, on = str(root / "stable-diffusion"), torch.device(device)
    model = load_prior(str(root / prior), on, False, vae_from=text_from, key="--root")
    encoder = load_image_encoder(str(root / "wonder3d"), "--root", on, torch.float32)
    imagedream, n = ImageDream(model, "--root", encoder), len(texts)
    gray = sum(DEFAULT_BACKGROUND) / 3
    rgb, opacity = pictures.to(on).tensor_split([3], dim=1)
    image = imagedream.look_at(rgb * opacity + (1 - opacity) * gray, model).for_passes(2)
    text = embed_prompts(text_from, texts + [""] * n, on)
    text = text[:, None].expand(-1, N_VIEW, -1, -1)
    c2w = _ring(azimuth_deg, N_VIEW).to(on).expand(2 * n, -1, -1, -1)

    def predict_noise(x_t: Tensor, t: Tensor) -> Tensor:
        eps = imagedream.predict_noise(torch.cat([x_t] * 2), t.repeat(2), text, c2w, image)
        with_it, without = eps.chunk(2)
        return without + guidance_scale * (with_it - without)

    return _ddim(model, (n, N_VIEW), seed, steps, predict_noise)


def _ddim(
    prior: LatentPrior,
    shape: tuple[int, ...],
    seed: int,
    steps: int,
    predict_noise: Callable[[Tensor, Tensor], Tensor],
) -> Float[Tensor, "... 3 H W"]:
    """Decoded samples of the given shape [N ...]; `predict_noise` gets x_t and one t for each N."""
    size = (prior.latent_channels, prior.latent_size, prior.latent_size)
    x_t = torch.randn(*shape, *size, generator=torch.Generator().manual_seed(seed))
    t = torch.full(shape[:1], prior.schedule.num_train_timesteps - 1, device=prior.device)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return prior.schedule.denoise(x_t, predict_noise(x_t, t), t)

    x0 = ddim(prior.schedule, denoise, x_t.to(prior.device), t, steps)
    return prior.decode(x0.flatten(0, -4)).unflatten(0, tuple(shape))


def _ring(azimuth_deg: float, n_view: int) -> Float[Tensor, "V 4 4"]:
    azimuth = azimuth_deg + torch.arange(n_view) * (360.0 / n_view)
    elevation, distance = (torch.full((n_view,), x) for x in (ELEVATION_DEG, DISTANCE))
    return orbit_cameras(azimuth, elevation, distance)
