"""An author's own checkpoint: which model it is, and its parts as stock configs and weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...state_dicts import fit
from . import clip as openai_clip
from . import dino, image_prompt, mv_adapter
from . import unet as ldm_unet
from . import vae as ldm_vae
from .layout import EMA, LOSSES, SCHEDULE, TEXT, sections_of, take_averages
from .schedule import scheduler_config

PARTS = ("unet", "vae", "scheduler", "image_encoder", "cc_projection", "mv_adapter", "")
MVDREAM, IMAGEDREAM, ZERO123 = "MVDream", "ImageDream", "Zero-1-to-3"
SD1, SD2, VAE = "Stable Diffusion 1", "Stable Diffusion 2", "autoencoder"
DINO, MV_ADAPTER = "DINO's vision transformer", "MV-Adapter"
LATENTS = {  # sides they were trained on
    **{MVDREAM: 32, IMAGEDREAM: 32, ZERO123: 32},
    **{SD1: 64, SD2: 64, VAE: 64},
}
SD2_V_LATENTS = 96  # of Stable Diffusion 2's v-predicting models, for pictures of 768 pixels
INPUTS = {  # channels; others inpaint, or see depth
    **{MVDREAM: 4, IMAGEDREAM: 4, ZERO123: 8},
    **{SD1: 4, SD2: 4},
}
OPENCLIP_HEAD_DIM = 80  # of ViT-H/14, which ImageDream looks with
POSE_NUMBERS = 4  # that Zero-1-to-3 appends to the image embedding

Part = tuple[dict[str, Any], dict[str, Tensor]]


@dataclass(frozen=True)
class Hints:
    """What weights do not tell; None means what the published models have.

    Attributes:
        prediction_type: `epsilon` or `v_prediction`; Stable Diffusion 2 comes with both.
        num_heads, head_dim: of the UNet's attention layers, their number or their width.
        clip_head_dim: width of the image encoder's attention heads.
        ema: take the averaged weights of the UNet where the file has both, as the programs that
            come with these models do.
    """

    prediction_type: str | None = None
    num_heads: int | None = None
    head_dim: int | None = None
    clip_head_dim: int | None = None
    ema: bool = True


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of MVDream, ImageDream, SD 1 or 2, Zero-1-to-3, DINO, MV-Adapter, or a VAE.

    DINO's one part has no name.

    Attributes:
        path: the file, for errors.
        sections: its weights under their authors' names, see `sections_of`.
        left_out: sections that nothing here needs, each with the number of its weights.
        averaged: the UNet's weights are their exponential moving averages.
    """

    path: Path
    sections: Mapping[str, Mapping[str, Tensor]]
    left_out: Mapping[str, int] = field(default_factory=dict)
    averaged: bool = False
    hints: Hints = Hints()

    @cached_property
    def _model(self) -> str:
        if "" in self.sections:
            return DINO
        if "mv_adapter" in self.sections:
            return MV_ADAPTER
        unet = self.sections.get("unet")
        if not unet:
            return VAE if "vae" in self.sections else ZERO123
        if ldm_unet.has_camera(unet):
            return IMAGEDREAM if image_prompt.takes_image(unet) else MVDREAM
        if "cc_projection" in self.sections:
            return ZERO123
        return SD2 if ldm_unet.projects_linearly(unet) else SD1

    @property
    def kind(self) -> str:
        """What it was recognised as, such as `MVDream (Stable Diffusion 2)`."""
        if self._model not in (MVDREAM, IMAGEDREAM):
            return self._model
        base = SD2 if ldm_unet.projects_linearly(self.sections["unet"]) else SD1
        return f"{self._model} ({base})"

    @property
    def parts(self) -> list[str]:
        return [part for part in PARTS if self.has(part)]

    def has(self, part: str) -> bool:
        """Whether `read` can give it; a UNet's schedule is known without buffers."""
        return part in PARTS and ("unet" if part == "scheduler" else part) in self.sections

    def files(self, part: str) -> list[Path]:
        """The files that `read` reads."""
        return [self.path]

    def read(self, part: str) -> Part:
        """A part's config and weights, memory-mapped where the file allows it, by stock names.

        They are those of a UNet2DConditionModel, AutoencoderKL or DDIMScheduler of diffusers, of a
        CLIPVisionModelWithProjection or ViTModel of transformers, or of our CCProjection or
        ImageDreamUNet or MVAdapter.

        Raises:
            ValueError: there is no such part, its weights are missing, unknown or misshapen, or
                what it predicts is not known.
        """
        if not self.has(part):
            raise ValueError(
                f"{self.path} ({self.kind}) has no {part or 'backbone'}, only "
                f"{', '.join(self.parts) or 'a backbone'}. Point the key to a model that has one."
            )
        unknown = self._model == SD2 and self.hints.prediction_type is None
        if unknown and part in ("unet", "scheduler"):
            raise ValueError(
                f"{self.path} is Stable Diffusion 2, and whether it predicts the noise (512-base) "
                "or v (768) cannot be seen in the file: run jointdreamer convert "
                f"{self.path} FOLDER --prediction-type epsilon (or v_prediction) and use that "
                "folder."
            )
        try:
            return getattr(self, f"_{part or 'dino'}")()
        except (KeyError, ValueError) as error:
            reason = f"missing {error.args[0]}" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"{self.path} was taken for {self.kind}, but does not fit as {part}: {reason}."
            ) from error

    @property
    def _latent_size(self) -> int:
        v_predicting = self._model == SD2 and self.hints.prediction_type == "v_prediction"
        return SD2_V_LATENTS if v_predicting else LATENTS[self._model]

    def _dino(self) -> Part:
        return dino.to_transformers(self.sections[""])

    def _mv_adapter(self) -> Part:
        return mv_adapter.to_stock(self.sections["mv_adapter"])

    def _unet(self) -> Part:
        weights = self.sections["unet"]
        channels = weights["input_blocks.0.0.weight"].shape[1]
        if channels != INPUTS[self._model]:
            raise ValueError(
                f"it takes {channels} channels instead of {INPUTS[self._model]}, as models that "
                "inpaint or look at depth do, which cannot be used here"
            )
        config = ldm_unet.unet_config(
            weights, self._latent_size, self.hints.num_heads, self.hints.head_dim
        )
        return config, ldm_unet.convert_unet(weights, config)

    def _vae(self) -> Part:
        weights = self.sections["vae"]
        config = ldm_vae.vae_config(weights)
        factor = 2 ** (len(config["block_out_channels"]) - 1)
        config["sample_size"] = factor * self._latent_size
        scale = self.sections.get(SCHEDULE, {}).get("scale_factor")
        if scale is not None:
            config["scaling_factor"] = float(f"{scale.item():.6g}")
        return config, ldm_vae.convert_vae(weights, config)

    def _scheduler(self) -> Part:
        betas = self.sections.get(SCHEDULE, {}).get("betas")
        return scheduler_config(betas, self.hints.prediction_type or "epsilon"), {}

    def _image_encoder(self) -> Part:
        weights = self.sections["image_encoder"]
        head_dim, act = self.hints.clip_head_dim, "quick_gelu"
        if self._model == IMAGEDREAM:
            head_dim, act = head_dim or OPENCLIP_HEAD_DIM, "gelu"
        config = openai_clip.clip_config(weights, head_dim, act)
        return config, openai_clip.convert_clip(weights, config)

    def _cc_projection(self) -> Part:
        weights = self.sections["cc_projection"]
        in_channel = weights["weight"].shape[1]
        model = nn.Linear(in_channel, in_channel - POSE_NUMBERS, device="meta")
        fitted = fit(weights, {name: name for name in weights}, model)
        config = {"in_channel": in_channel, "out_channel": model.out_features}
        return config, {f"projection.{name}": tensor for name, tensor in fitted.items()}


def open_checkpoint(
    weights: Mapping[str, Tensor], path: Path, hints: Hints | None = None
) -> Checkpoint:
    """Sorts the weights of a checkpoint file, `path`.

    Raises:
        ValueError: it is of no known kind, or holds weights of something else.
    """
    hints = hints or Hints()
    sections = sections_of(weights, path)
    left_out = {name: len(sections[name]) for name in (TEXT, LOSSES) if name in sections}
    if EMA in sections:
        left_out["plain weights" if hints.ema else "averaged weights"] = len(sections[EMA])
    averaged = EMA in sections and hints.ema
    if averaged:
        sections = take_averages(sections, path)
    return Checkpoint(path, sections, left_out, averaged, hints)
