"""The training stages: autoencoder, CLIP, 2D prior, multi-view and image-to-views prior."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from threestudio_jointdreamer.files import replacing
from torch import Tensor
from transformers import CLIPTextModel

from . import models
from .dataset import make_pictures
from .diffusion_stages import (
    ImageDreamStage,
    MVDreamStage,
    StableDiffusion3Stage,
    StableDiffusionStage,
    Wonder3DStage,
)
from .scene_stages import SceneMVDreamStage, SceneStage
from .training import Stage, Trainer, TrainingPlan


def _to_unit(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


class VAEStage(Stage):
    """The autoencoder: L1 + L2 reconstruction, faint KL; then its scaling factor is set."""

    plan = TrainingPlan(steps=4266, lr=1e-3, ema=0.999)
    pictures, batch = 60_000, 128

    def __init__(self, root: Path, n_pictures: int, seed: int, device: str) -> None:
        torch.manual_seed(seed)
        self.model = models.build_vae().to(device)
        self.images = make_pictures(n_pictures, seed + 11, device).images

    def loss(self, batch: int) -> Tensor:
        rows = torch.randint(len(self.images), (batch,), device=self.images.device)
        x = _to_unit(self.images[rows])
        posterior = self.model.encode(x).latent_dist
        error = self.model.decode(posterior.sample()).sample.float() - x
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return error.abs().mean() + 2 * error.square().mean() + 1e-4 * kl

    @torch.no_grad()
    def save(self, root: Path) -> dict[str, float]:
        vae, x = self.model, _to_unit(self.images[:2048:2])
        latents = vae.encode(x).latent_dist.sample()
        vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
        restored = torch.cat([vae.decode(z).sample for z in latents.split(128)])
        psnr = -10 * torch.log10(F.mse_loss(restored.clamp(-1, 1), x) / 4).item()
        with replacing(root / "stable-diffusion" / "vae") as folder:
            vae.half().save_pretrained(folder)
        return {"psnr": psnr}


class CLIPStage(Stage):
    """The small CLIP, trained contrastively; its text tower also conditions the 2D prior."""

    plan = TrainingPlan(steps=2500, lr=1e-3, ema=0.99)
    pictures, batch = 100_000, 512

    def __init__(self, root: Path, n_pictures: int, seed: int, device: str) -> None:
        torch.manual_seed(seed)
        self.tokenizer = models.build_tokenizer()
        self.model = models.build_clip(self.tokenizer).to(device)
        pictures = make_pictures(n_pictures, seed + 12, device)
        self.images = pictures.images
        tokens = self.tokenizer(pictures.captions, padding="max_length", return_tensors="pt")
        self.tokens = tokens.input_ids.to(device)

    def loss(self, batch: int) -> Tensor:
        device = self.images.device
        rows = torch.randint(len(self.images), (batch,), device=device)
        out = self.model(input_ids=self.tokens[rows], pixel_values=_to_unit(self.images[rows]))
        target = torch.arange(batch, device=device)
        scores = out.logits_per_image.float()
        return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2

    def save(self, root: Path) -> dict[str, float]:
        clip, prior = self.model.half(), root / "stable-diffusion"
        text_encoder = CLIPTextModel(clip.config.text_config)
        # transformers 5 has the text model's parts in the encoder itself
        target = getattr(text_encoder, "text_model", text_encoder)
        target.load_state_dict(clip.text_model.state_dict())
        with replacing(prior / "text_encoder") as folder:
            text_encoder.half().save_pretrained(folder)
        with replacing(prior / "tokenizer") as folder:
            self.tokenizer.save_pretrained(folder)
        with replacing(root / "clip") as folder:
            clip.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        return {}


STAGES: dict[str, type[Stage]] = {
    "vae": VAEStage,
    "clip": CLIPStage,
    "stable-diffusion": StableDiffusionStage,
    "stable-diffusion-3": StableDiffusion3Stage,
    "mvdream": MVDreamStage,
    "wonder3d": Wonder3DStage,
    "imagedream": ImageDreamStage,
    "scene-stable-diffusion": SceneStage,
    "scene-mvdream": SceneMVDreamStage,
}


def check_stage(name: str, species: Sequence[str] | None) -> None:
    """
    Raises:
        ValueError: unknown stage, or one that does not choose among species.
    """
    if name not in STAGES:
        raise ValueError(f"stage {name!r} is unknown: use one of {', '.join(STAGES)}.")
    if species is not None and not issubclass(STAGES[name], StableDiffusionStage):
        raise ValueError(f"--species is of the priors that a text prompts, not of {name}.")


def train(
    name: str,
    root: Path,
    device: str,
    seed: int = 0,
    steps: int | None = None,
    pictures: int | None = None,
    batch: int | None = None,
    max_seconds: float | None = None,
    species: Sequence[str] | None = None,
) -> dict:
    """Runs one stage and records how it went in `<root>/training-<name>.json`.

    Args:
        name: a key of `STAGES`.
        root: folder of the weights, `load/tiny` for the shipped ones.
        steps, pictures, batch: override the stage's own numbers.
        max_seconds: shortens the training to about this time.
        species: all that a prior prompted by text is shown, for one that knows less than others.

    Returns:
        The stage's report: plan, steps, seconds, final loss.

    Raises:
        ValueError: unknown stage or species, or a stage that does not choose among them.
        FileNotFoundError: a stage that this one needs was not trained.
    """
    check_stage(name, species)
    kind, chosen = STAGES[name], {} if species is None else {"species": species}
    plan = replace(kind.plan, seed=seed, max_seconds=max_seconds)
    if steps is not None:
        plan = replace(plan, steps=steps, warmup=min(plan.warmup, max(1, steps // 10)))
    pictures, batch = pictures or kind.pictures, batch or kind.batch
    stage = kind(root, pictures, seed, device, **chosen)
    stage.model.train()
    state = root / f".{name}.state"
    trainer = Trainer(stage.model, lambda: stage.loss(batch), plan, state, kind.captured)
    report = {"plan": asdict(plan), "pictures": pictures, "batch": batch, "device": device}
    report |= chosen
    report |= trainer.run(name)
    stage.model.eval()
    report |= stage.save(root)
    with replacing(root / f"training-{name}.json") as path:
        path.write_text(json.dumps(report, indent=2) + "\n")
    return report
