"""The training stages: autoencoder, CLIP, 2D prior, multi-view and image-to-views prior."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from jaxtyping import Float
from threestudio_jointdreamer.priors.multiview import camera_condition
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerFast

from . import models
from .dataset import Pictures, four_view_sets, make_pictures, single_pictures
from .training import Trainer, TrainingPlan
from .translation import train_wonder3d

PLANS = {
    "vae": TrainingPlan(steps=4266, lr=1e-3, ema=0.999),
    "clip": TrainingPlan(steps=2500, lr=1e-3, ema=0.99, cuda_graph=False),
    "stable-diffusion": TrainingPlan(steps=14695, lr=1e-3, warmup=500, ema=0.9995),
    "mvdream": TrainingPlan(steps=15353, lr=1e-3, warmup=500, ema=0.9995),
    "wonder3d": TrainingPlan(steps=15309, lr=1e-3, warmup=500, ema=0.9995),
}
PICTURES = {
    "vae": 60_000,
    "clip": 100_000,
    "stable-diffusion": 250_000,
    "mvdream": 80_000,
    "wonder3d": 80_000,
}
BATCH = {"vae": 128, "clip": 512, "stable-diffusion": 256, "mvdream": 64, "wonder3d": 64}
P_NO_TEXT = 0.1  # how often a caption is replaced by the empty prompt, for classifier-free guidance


def _publish(folder: Path, save: Callable[[Path], None]) -> None:
    """Writes a folder under a temporary name and moves it into place when it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    save(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def _to_unit(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def _tokens(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def train_vae(root: Path, plan: TrainingPlan, n_pictures: int, batch: int, device: str) -> dict:
    """Trains the autoencoder (L1 + L2 reconstruction, faint KL) and sets its scaling factor."""
    torch.manual_seed(plan.seed)
    vae = models.build_vae().to(device).train()
    images = make_pictures(n_pictures, plan.seed + 11, device).images

    def loss() -> Tensor:
        x = _to_unit(images[torch.randint(len(images), (batch,), device=images.device)])
        posterior = vae.encode(x).latent_dist
        error = vae.decode(posterior.sample()).sample.float() - x
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return error.abs().mean() + 2 * error.square().mean() + 1e-4 * kl

    report = Trainer({"vae": vae}, loss, plan, root / ".vae.state").run("vae")
    vae.eval()
    with torch.no_grad():
        sample = vae.encode(_to_unit(images[:2048:2])).latent_dist.sample()
        vae.register_to_config(scaling_factor=round(1 / sample.std().item(), 5))
        restored = torch.cat([vae.decode(z).sample for z in sample.split(128)])
        error = F.mse_loss(restored.clamp(-1, 1), _to_unit(images[:2048:2]))
        report["psnr"] = -10 * torch.log10(error / 4).item()
    _publish(root / "stable-diffusion" / "vae", lambda p: vae.half().save_pretrained(p))
    return report


def train_clip(root: Path, plan: TrainingPlan, n_pictures: int, batch: int, device: str) -> dict:
    """Trains the small CLIP contrastively; ships its text tower and tokenizer with the 2D prior."""
    torch.manual_seed(plan.seed)
    tokenizer = models.build_tokenizer()
    clip = models.build_clip(tokenizer).to(device).train()
    pictures = make_pictures(n_pictures, plan.seed + 12, device)
    tokens = _tokens(tokenizer, pictures.captions).to(device)
    images = pictures.images

    def loss() -> Tensor:
        rows = torch.randint(len(images), (batch,), device=images.device)
        out = clip(input_ids=tokens[rows], pixel_values=_to_unit(images[rows]))
        target = torch.arange(batch, device=images.device)
        scores = out.logits_per_image.float()
        return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2

    report = Trainer({"clip": clip}, loss, plan, root / ".clip.state").run("clip")
    clip.eval().half()
    text_encoder = CLIPTextModel(clip.config.text_config)
    target = text_encoder.text_model if hasattr(text_encoder, "text_model") else text_encoder
    target.load_state_dict(clip.text_model.state_dict())
    prior = root / "stable-diffusion"
    _publish(prior / "text_encoder", lambda p: text_encoder.half().save_pretrained(p))
    _publish(prior / "tokenizer", lambda p: tokenizer.save_pretrained(p))
    _publish(root / "clip", lambda p: (clip.save_pretrained(p), tokenizer.save_pretrained(p)))
    return report


@torch.no_grad()
def _embed(root: Path, texts: list[str], device: str) -> Float[Tensor, "N L D"]:
    tokenizer = AutoTokenizer.from_pretrained(root / "stable-diffusion" / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(root / "stable-diffusion" / "text_encoder")
    encoder = encoder.to(device, torch.float32).eval()
    chunks = _tokens(tokenizer, texts).split(4096)
    return torch.cat([encoder(chunk.to(device))[0].to(torch.bfloat16) for chunk in chunks])


def _latents(root: Path, make: Callable[..., Pictures], n: int, seed: int, device: str) -> Pictures:
    vae = AutoencoderKL.from_pretrained(root / "stable-diffusion" / "vae").to(device).eval()

    def encode(rgb: Tensor) -> Tensor:
        dtype = torch.bfloat16 if rgb.is_cuda else torch.float32
        with torch.autocast(rgb.device.type, dtype=dtype, enabled=rgb.is_cuda):
            mean = vae.encode(rgb * 2 - 1).latent_dist.mean
        return (mean * vae.config.scaling_factor).to(torch.bfloat16)

    return make(n, seed, device, encode=encode)


def _train_unet(
    name: str,
    root: Path,
    plan: TrainingPlan,
    pictures: Pictures,
    unet: UNet2DConditionModel,
    batch: int,
    device: str,
) -> dict:
    """Epsilon-prediction with one t per group of views and dropped captions."""
    embeddings = _embed(root, pictures.captions, device)
    nothing = _embed(root, [""], device)
    scheduler = models.build_scheduler()
    alphas = scheduler.alphas_cumprod.to(device)
    groups = len(pictures.captions)
    latents = pictures.images.unflatten(0, (groups, -1))
    n_view = latents.shape[1]
    cameras = camera_condition(pictures.c2w).unflatten(0, (groups, n_view))
    unet = unet.to(device, memory_format=torch.channels_last).train()
    conditioned = unet.config.class_embed_type is not None

    def loss() -> Tensor:
        rows = torch.randint(groups, (batch,), device=device)
        t = torch.randint(len(alphas), (batch,), device=device)
        keep = torch.rand(batch, 1, 1, device=device) >= P_NO_TEXT
        text = torch.where(keep, embeddings[rows], nothing).float()
        x = latents[rows].float()
        noise = torch.randn_like(x)
        alpha = alphas[t].view(-1, 1, 1, 1, 1)
        noisy = (alpha.sqrt() * x + (1 - alpha).sqrt() * noise).flatten(0, 1)
        predicted = unet(
            noisy.contiguous(memory_format=torch.channels_last),
            t.repeat_interleave(n_view),
            text.repeat_interleave(n_view, dim=0),
            class_labels=cameras[rows].flatten(0, 1) if conditioned else None,
        ).sample
        return F.mse_loss(predicted.float(), noise.flatten(0, 1))

    report = Trainer({"unet": unet}, loss, plan, root / f".{name}.state").run(name)
    unet = unet.to(memory_format=torch.contiguous_format).half().eval()
    _publish(root / name / "unet", lambda p: unet.save_pretrained(p))
    _publish(root / name / "scheduler", lambda p: scheduler.save_pretrained(p))
    return report


def train_stable_diffusion(
    root: Path, plan: TrainingPlan, n_pictures: int, batch: int, device: str
) -> dict:
    """Trains the 2D prior on single, mostly frontal pictures; needs the vae and clip stages."""
    torch.manual_seed(plan.seed + 1)
    unet = models.build_unet()
    pictures = _latents(root, single_pictures, n_pictures, plan.seed + 13, device)
    return _train_unet("stable-diffusion", root, plan, pictures, unet, batch, device)


def train_mvdream(root: Path, plan: TrainingPlan, n_pictures: int, batch: int, device: str) -> dict:
    """Trains the multi-view prior on four-view sets; needs the vae and clip stages."""
    torch.manual_seed(plan.seed + 2)
    unet = models.build_unet(multiview=True)
    pictures = _latents(root, four_view_sets, n_pictures, plan.seed + 14, device)
    return _train_unet("mvdream", root, plan, pictures, unet, batch, device)


STAGES = {
    "vae": train_vae,
    "clip": train_clip,
    "stable-diffusion": train_stable_diffusion,
    "mvdream": train_mvdream,
    "wonder3d": train_wonder3d,
}


def train(
    stage: str,
    root: Path,
    device: str,
    seed: int = 0,
    steps: int | None = None,
    pictures: int | None = None,
    batch: int | None = None,
    max_seconds: float | None = None,
) -> dict:
    """Runs one stage and records how it went in `<root>/training-<stage>.json`.

    Args:
        stage: a key of `STAGES`.
        root: folder of the weights, `load/tiny` for the shipped ones.
        device: "cuda" or "cpu".
        seed: seeds weights, pictures and batches.
        steps, pictures, batch: override the stage's own numbers.
        max_seconds: shortens the training to about this time; the report says to how many steps.

    Returns:
        The stage's report: plan, steps, seconds, final loss.

    Raises:
        ValueError: unknown stage.
    """
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r} is unknown: use one of {', '.join(STAGES)}.")
    plan = replace(PLANS[stage], seed=seed, max_seconds=max_seconds)
    if steps is not None:
        plan = replace(plan, steps=steps, warmup=min(plan.warmup, max(1, steps // 10)))
    n, size = pictures or PICTURES[stage], batch or BATCH[stage]
    root.mkdir(parents=True, exist_ok=True)
    report = STAGES[stage](root, plan, n, size, device)
    report = {"plan": asdict(plan), "pictures": n, "batch": size, "device": device, **report}
    path = root / f"training-{stage}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(report, indent=2) + "\n")
    os.replace(temporary, path)
    return report
