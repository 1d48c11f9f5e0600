"""The stages of the diffusion priors: noise (or velocity) prediction with one t per object and a
condition that is left out now and then.
"""

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, SchedulerMixin
from jaxtyping import Bool, Float, Int
from threestudio_jointdreamer.files import replacing
from threestudio_jointdreamer.priors.image_prior import ImagePriorOptions, Reference
from threestudio_jointdreamer.priors.imagedream import ImageDream, ImagePrompt
from threestudio_jointdreamer.priors.latent_prior import LatentPrior, split_pooled
from threestudio_jointdreamer.priors.multiview import camera_condition
from threestudio_jointdreamer.priors.schedule import GaussianPath, NoiseSchedule, RectifiedFlow
from threestudio_jointdreamer.priors.wonder3d import Wonder3D
from threestudio_jointdreamer.priors.wonder3d_unet import Wonder3DUNet
from threestudio_jointdreamer.prompts.text_encoder import embed_prompts
from torch import Tensor, nn
from transformers import CLIPModel

from . import image_prompts, models
from .creatures import SPECIES
from .dataset import four_view_sets, single_pictures
from .training import Stage, TrainingPlan
from .translation import (
    encode_latents,
    held_out_losses,
    image_encoder_of,
    ring_of_cameras,
    view_sets,
)

P_WITHOUT_TEXT = 0.3  # how often ImageDream is given a picture and no text
P_UNCONDITIONAL = 0.1  # how often the condition is left out, for classifier-free guidance
HELD_OUT = 256  # creatures that Wonder3D's and ImageDream's reported losses are measured on


class DiffusionStage(Stage):
    """Predicts the noise of groups of V views, all views of a group at the same t.

    Attributes:
        name: folder of the prior; part: of its model in it.
        latents: what is learnt.
    """

    name: str
    part = "unet"
    latents: Float[Tensor, "N V C h w"]

    def __init__(self, root: Path, device: str) -> None:
        self.vae = self._load(AutoencoderKL, root, "stable-diffusion/vae", "vae").to(device)
        self.scheduler, schedule = self.build_schedule()
        self.schedule = schedule.to(torch.device(device))

    @staticmethod
    def build_schedule() -> tuple[SchedulerMixin, GaussianPath]:
        scheduler = models.build_scheduler()
        return scheduler, NoiseSchedule(scheduler.alphas_cumprod)

    @staticmethod
    def target(x: Tensor, noise: Tensor) -> Tensor:
        """What is predicted of noisy latents: their noise."""
        return noise

    @abstractmethod
    def predict_noise(
        self,
        noisy: Float[Tensor, "B V C h w"],
        t: Int[Tensor, " B"],
        rows: Int[Tensor, " B"],
        keep: Bool[Tensor, " B"],
    ) -> Float[Tensor, "B V C h w"]:
        """The target for the groups `rows`, with their condition where `keep` says so."""

    def loss(self, batch: int) -> Tensor:
        device = self.latents.device
        rows = torch.randint(len(self.latents), (batch,), device=device)
        t = self.draw_times(batch)
        keep = torch.rand(batch, device=device) >= P_UNCONDITIONAL
        x = self.latents[rows].float()
        noise = torch.randn_like(x)
        noisy = self.schedule.add_noise(x, noise, t)
        predicted = self.predict_noise(noisy, t, rows, keep).float()
        return F.mse_loss(predicted, self.target(x, noise))

    def draw_times(self, batch: int) -> Int[Tensor, " B"]:
        steps = self.schedule.num_train_timesteps
        return torch.randint(steps, (batch,), device=self.latents.device)

    def save(self, root: Path) -> dict[str, float]:
        model = self.model.to(memory_format=torch.contiguous_format).half()
        with replacing(root / self.name / self.part) as folder:
            model.save_pretrained(folder)
        with replacing(root / self.name / "scheduler") as folder:
            self.scheduler.save_pretrained(folder)
        return {}

    @staticmethod
    def _load(model_class: type[nn.Module], root: Path, folder: str, stage: str) -> nn.Module:
        """A frozen model that an earlier stage has trained."""
        if not (root / folder).is_dir():
            raise FileNotFoundError(
                f"{root / folder} is not there: run `jointdreamer tinyworld train {stage}` with "
                "the same --root first."
            )
        return model_class.from_pretrained(root / folder).eval().requires_grad_(False)


class StableDiffusionStage(DiffusionStage):
    """The 2D prior on single, mostly frontal pictures; needs the vae and clip stages."""

    plan = TrainingPlan(steps=14695, lr=1e-3, warmup=500, ema=0.9995)
    pictures, batch = 250_000, 256
    name, seed_offset = "stable-diffusion", 1
    text_from, captured = "stable-diffusion", True
    render, multiview = staticmethod(single_pictures), False

    def __init__(
        self,
        root: Path,
        n_pictures: int,
        seed: int,
        device: str,
        species: Sequence[str] = SPECIES,
    ) -> None:
        super().__init__(root, device)
        torch.manual_seed(seed + self.seed_offset)
        self.model = self.build_model().to(device, memory_format=torch.channels_last)
        encode = partial(encode_latents, self.vae)
        drawn = {"species": species, "encode": encode}
        pictures = self.render(n_pictures, seed + 12 + self.seed_offset, device, **drawn)
        self.latents = pictures.images.unflatten(0, (n_pictures, -1))
        self.cameras = camera_condition(pictures.c2w).unflatten(0, (n_pictures, -1))
        texts = embed_prompts(
            str(root / self.text_from), [*pictures.captions, ""], torch.device(device)
        )
        self.text, self.no_text = texts[:-1].bfloat16(), texts[-1:].bfloat16()

    def build_model(self) -> nn.Module:
        return models.build_unet(self.multiview)

    def predict_noise(self, noisy, t, rows, keep):
        n_view = noisy.shape[1]
        text = torch.where(keep.view(-1, 1, 1), self.text[rows], self.no_text).float()
        predicted = self.model(
            noisy.flatten(0, 1).contiguous(memory_format=torch.channels_last),
            t.repeat_interleave(n_view),
            text.repeat_interleave(n_view, dim=0),
            class_labels=self.cameras[rows].flatten(0, 1) if self.multiview else None,
        ).sample
        return predicted.unflatten(0, noisy.shape[:2])


class MVDreamStage(StableDiffusionStage):
    """The multi-view prior on four-view sets; needs the vae and clip stages."""

    plan = TrainingPlan(steps=15353, lr=1e-3, warmup=500, ema=0.9995)
    pictures, batch = 80_000, 64
    name, seed_offset = "mvdream", 2
    render, multiview = staticmethod(four_view_sets), True


class StableDiffusion3Stage(StableDiffusionStage):
    """The flow prior on the 2D prior's pictures; needs the vae and clip stages.

    Stable Diffusion 3's transformer and path, with CLIP's text tower as the one text encoder.
    """

    plan = TrainingPlan(steps=60_000, lr=1e-3, warmup=500, ema=0.9995)
    pictures, batch = 250_000, 256
    name, seed_offset = "stable-diffusion-3", 4
    part, text_from = "transformer", "stable-diffusion-3"
    target = staticmethod(lambda x, noise: noise - x)  # the velocity

    def __init__(self, root: Path, *args: Any, **kwargs: Any) -> None:
        clip = self._load(CLIPModel, root, "clip", "clip")
        with replacing(root / self.name / "text_encoder") as folder:
            models.text_encoder_of(clip).half().save_pretrained(folder)
        with replacing(root / self.name / "tokenizer") as folder:
            models.build_tokenizer().save_pretrained(folder)
        super().__init__(root, *args, **kwargs)

    @staticmethod
    def build_schedule() -> tuple[SchedulerMixin, GaussianPath]:
        scheduler = models.build_flow_scheduler()
        return scheduler, RectifiedFlow(scheduler.sigmas.flip(0))

    def build_model(self) -> nn.Module:
        return models.build_mmdit()

    def draw_times(self, batch: int) -> Int[Tensor, " B"]:
        """More often in the middle: logit-normal, as Stable Diffusion 3's."""
        share = torch.randn(batch, device=self.latents.device).sigmoid()
        return (share * self.schedule.num_train_timesteps).long()

    def predict_noise(self, noisy, t, rows, keep):
        text = torch.where(keep.view(-1, 1, 1), self.text[rows], self.no_text).float()
        text, pooled = split_pooled(text, self.model.config.pooled_projection_dim)
        time = self.schedule.model_time(t)
        return self.model(noisy[:, 0], text, pooled, time).sample[:, None]


class Wonder3DStage(DiffusionStage):
    """The image-to-views prior on creatures with accessories; needs the vae and clip stages.

    Its report has the loss on creatures that were not trained on, with and without the reference.
    """

    plan = TrainingPlan(steps=15309, lr=1e-3, warmup=500, ema=0.9995)
    pictures, batch = 80_000, 64
    name = "wonder3d"

    def __init__(self, root: Path, n_pictures: int, seed: int, device: str) -> None:
        super().__init__(root, device)
        clip = self._load(CLIPModel, root, "clip", "clip").to(device).float()
        torch.manual_seed(seed + 3)
        self.encoder = image_encoder_of(clip).requires_grad_(False)
        unet = models.build_wonder3d_unet()
        self.model = unet.to(device, memory_format=torch.channels_last)
        prior = LatentPrior(self.model, self.schedule, self.vae, models.LATENT_CHANNELS)
        self.image_prior = Wonder3D(prior, self.encoder, ImagePriorOptions())
        self.held_out = min(HELD_OUT, n_pictures), seed + 16
        self.latents, self.reference = view_sets(n_pictures, seed + 15, self.image_prior)

    def predict_noise(self, noisy, t, rows, keep):
        seen = Reference(
            self.reference.embedding[rows] * keep[:, None].float(),
            self.reference.latents[rows] * keep[:, None, None, None].float(),
        )
        cameras = ring_of_cameras(*noisy.shape[:2], noisy.device)
        return self.image_prior.predict_noise(noisy, t, seen, cameras, guided=False)[0]

    def save(self, root: Path) -> dict[str, float]:
        with_it, without_it = held_out_losses(self.image_prior, *self.held_out)
        with replacing(root / self.name) as folder:
            self.model.to(memory_format=torch.contiguous_format).half()
            self.model.save_pretrained(folder / "unet")
            self.encoder.half().save_pretrained(folder / "image_encoder")
            self.scheduler.save_pretrained(folder / "scheduler")
        return {"held_out_loss": with_it, "held_out_loss_without_reference": without_it}


class ImageDreamStage(DiffusionStage):
    """The image-prompted multi-view prior on creatures with accessories.

    Needs the vae and clip stages, and starts from the wonder3d stage's UNet, where weights have the
    same names and shapes: that knows already what creatures look like from all sides. Its report
    has the loss on creatures that were not trained on, with and without the picture.
    """

    plan = TrainingPlan(steps=6000, lr=1e-3, warmup=300, ema=0.998)
    pictures, batch = 20_000, 128
    name = "imagedream"

    def __init__(self, root: Path, n_pictures: int, seed: int, device: str) -> None:
        super().__init__(root, device)
        clip = self._load(CLIPModel, root, "clip", "clip").to(device).float()
        encoder = image_encoder_of(clip).requires_grad_(False)
        torch.manual_seed(seed + 4)
        unet = models.build_imagedream_unet()
        start_from(unet, self._load(Wonder3DUNet, root, "wonder3d/unet", "wonder3d"))
        self.model = unet.to(device, memory_format=torch.channels_last)
        prior = LatentPrior(self.model, self.schedule, self.vae)
        self.imagedream = ImageDream(prior, "--root", encoder)
        self.text_from = str(root / "stable-diffusion")
        seen, self.text = self._draw(n_pictures, seed + 17)
        self.held_out = min(HELD_OUT, n_pictures), seed + 18
        self.latents, self.image, self.c2w = seen.latents, seen.image, seen.c2w
        self.no_text = self._embed([""])

    def _embed(self, texts: list[str]) -> Tensor:
        return embed_prompts(self.text_from, texts, self.vae.device).bfloat16()

    def _draw(self, n: int, seed: int) -> tuple[image_prompts.PromptedViews, Tensor]:
        model = self.imagedream
        seen = image_prompts.prompted_views(n, seed, model, model.prior)
        return seen, self._embed(seen.captions)

    def predict_noise(self, noisy, t, rows, keep):
        told = keep & (torch.rand(len(rows), device=rows.device) >= P_WITHOUT_TEXT)
        text = torch.where(told.view(-1, 1, 1), self.text[rows], self.no_text).float()
        image = ImagePrompt(
            self.image.hidden[rows] * keep[:, None, None].float(),
            self.image.latents[rows] * keep[:, None, None, None].float(),
        )
        text = text[:, None].expand(-1, noisy.shape[1], -1, -1)
        return self.imagedream.predict_noise(noisy, t, text, self.c2w[rows], image)

    def save(self, root: Path) -> dict[str, float]:
        n, seed = self.held_out
        seen, text = self._draw(n, seed)
        losses = image_prompts.held_out_losses(self.imagedream, seen, text.float(), seed)
        super().save(root)
        return dict(zip(("held_out_loss", "held_out_loss_without_image"), losses, strict=True))


def start_from(unet: nn.Module, other: nn.Module) -> None:
    """Copies weights of the same name and shape; of the first layer those of the noisy latents."""
    own, theirs = unet.state_dict(), other.state_dict()
    theirs["conv_in.weight"] = theirs["conv_in.weight"][:, : own["conv_in.weight"].shape[1]]
    unet.load_state_dict(
        {name: w for name, w in theirs.items() if name in own and w.shape == own[name].shape},
        strict=False,
    )
