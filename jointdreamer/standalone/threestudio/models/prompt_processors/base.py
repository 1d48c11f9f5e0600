"""The prompt processor every other one derives from: a prompt, and a variant for each side."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.prompt_processors.output import (
    DirectionConfig,
    PromptProcessorOutput,
    shift_azimuth_deg,
)
from threestudio.utils.base import BaseObject

__all__ = ["DirectionConfig", "PromptProcessor", "PromptProcessorOutput", "shift_azimuth_deg"]


class PromptProcessor(BaseObject):
    """Embeds a prompt, its view-dependent variants and the negative prompt when it is made.

    A subclass says how, in `prepare_text_embeddings` and `load_text_embeddings`.
    """

    @dataclass
    class Config(BaseObject.Config):
        prompt: str = "a hamburger"

        # replace "<prompt>, front view" and so on
        prompt_front: str | None = None
        prompt_side: str | None = None
        prompt_back: str | None = None
        prompt_overhead: str | None = None

        negative_prompt: str = ""
        pretrained_model_name_or_path: str = "runwayml/stable-diffusion-v1-5"
        overhead_threshold: float = 60.0
        front_threshold: float = 45.0
        back_threshold: float = 45.0
        view_dependent_prompt_front: bool = False  # "front view of <prompt>" instead
        use_cache: bool = True
        spawn: bool = True

        # Perp-Neg weights a exp(-b r) + c, between side, back and front
        use_perp_neg: bool = False
        perp_neg_f_sb: tuple[float, float, float] = (1, 0.5, -0.606)
        perp_neg_f_fsb: tuple[float, float, float] = (1, 0.5, +0.967)
        perp_neg_f_fs: tuple[float, float, float] = (4, 0.5, -2.426)
        perp_neg_f_sf: tuple[float, float, float] = (4, 0.5, -2.426)

        use_prompt_debiasing: bool = False  # threestudio's; not supported in this host

    cfg: Config
    text_embeddings: Float[Tensor, "1 N Nf"]
    uncond_text_embeddings: Float[Tensor, "1 N Nf"]
    text_embeddings_vd: Float[Tensor, "Nv N Nf"]
    uncond_text_embeddings_vd: Float[Tensor, "Nv N Nf"]

    def configure(self) -> None:
        self._check_config()
        self.directions = [
            DirectionConfig(name, self._naming(name), lambda text: text, self._condition(name))
            for name in ("side", "front", "back", "overhead")
        ]
        self.direction2idx = {d.name: i for i, d in enumerate(self.directions)}
        self.prompt = self.cfg.prompt
        self.negative_prompt = self.cfg.negative_prompt
        self.prompts_vd = [
            self.cfg.get(f"prompt_{d.name}") or d.prompt(self.prompt) for d in self.directions
        ]
        self.negative_prompts_vd = [
            d.negative_prompt(self.negative_prompt) for d in self.directions
        ]
        threestudio.info(f"Prompt [{self.prompt}], negative prompt [{self.negative_prompt}]")
        threestudio.debug(f"View-dependent prompts {self.prompts_vd}")
        self.prepare_text_embeddings()
        self.load_text_embeddings()

    def _check_config(self) -> None:
        if not self.cfg.prompt.strip():
            raise ValueError(
                f"system.prompt_processor.prompt={self.cfg.prompt!r} is empty: say what to make, "
                'for example system.prompt_processor.prompt="a blue cat wearing a red hat".'
            )
        if self.cfg.prompt.startswith("lib:"):
            raise ValueError(
                f"system.prompt_processor.prompt={self.cfg.prompt!r} names a prompt of "
                "threestudio's library, which the standalone host does not have: write it out."
            )
        if self.cfg.use_prompt_debiasing:
            raise ValueError(
                "system.prompt_processor.use_prompt_debiasing=true is not supported by the "
                "standalone host: set it to false, or write prompt_front, prompt_side, "
                "prompt_back and prompt_overhead yourself."
            )

    def _naming(self, side: str) -> Callable[[str], str]:
        """What a prompt becomes for a side."""
        if self.cfg.view_dependent_prompt_front:
            return lambda text: f"{'backside' if side == 'back' else side} view of {text}"
        return lambda text: f"{text}, {side} view"

    def _condition(self, side: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Which cameras see a side, unless a later side claims them."""
        cfg = self.cfg

        def condition(elevation: Tensor, azimuth: Tensor, distance: Tensor) -> Tensor:
            shifted = shift_azimuth_deg(azimuth)
            if side == "front":
                return (shifted > -cfg.front_threshold) & (shifted < cfg.front_threshold)
            if side == "back":
                back = 180 - cfg.back_threshold
                return (shifted > back) | (shifted < -back)
            if side == "overhead":
                return elevation > cfg.overhead_threshold
            return torch.ones_like(elevation, dtype=torch.bool)

        return condition

    def prepare_text_embeddings(self) -> None:
        """Embeds the prompts and keeps the embeddings where all ranks find them."""
        raise NotImplementedError

    def load_text_embeddings(self) -> None:
        """Sets the four attributes with embeddings, on this process's device."""
        raise NotImplementedError

    def __call__(self) -> PromptProcessorOutput:
        return PromptProcessorOutput(
            text_embeddings=self.text_embeddings,
            uncond_text_embeddings=self.uncond_text_embeddings,
            text_embeddings_vd=self.text_embeddings_vd,
            uncond_text_embeddings_vd=self.uncond_text_embeddings_vd,
            directions=self.directions,
            direction2idx=self.direction2idx,
            use_perp_neg=self.cfg.use_perp_neg,
            perp_neg_f_sb=tuple(self.cfg.perp_neg_f_sb),
            perp_neg_f_fsb=tuple(self.cfg.perp_neg_f_fsb),
            perp_neg_f_fs=tuple(self.cfg.perp_neg_f_fs),
            perp_neg_f_sf=tuple(self.cfg.perp_neg_f_sf),
            prompt=self.prompt,
            prompts_vd=self.prompts_vd,
        )
