"""The prompt processor every other one derives from: a prompt, and a variant for each side."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject

SIDES = ("side", "front", "back", "overhead")


def shift_azimuth_deg(azimuth: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The same angles in [-180, 180)."""
    return (azimuth + 180) % 360 - 180


@dataclass
class PromptProcessorOutput:
    """Embeddings of the plain prompt [1 N Nf], and one for each of the Nv `SIDES`.

    `cfg` is the processor's: which cameras see which side, and Perp-Neg's coefficients.
    """

    text_embeddings: Float[Tensor, "1 N Nf"]
    uncond_text_embeddings: Float[Tensor, "1 N Nf"]
    text_embeddings_vd: Float[Tensor, "Nv N Nf"]
    uncond_text_embeddings_vd: Float[Tensor, "Nv N Nf"]
    prompt: str
    prompts_vd: list[str]
    cfg: Any

    @property
    def use_perp_neg(self) -> bool:
        return self.cfg.use_perp_neg

    def _direction_idx(
        self, elevation: Float[Tensor, "B"], azimuth: Float[Tensor, "B"]
    ) -> Int[Tensor, "B"]:
        """The last of the sides that a camera sees; angles in degrees."""
        turned = shift_azimuth_deg(azimuth).abs()
        idx = torch.zeros_like(elevation, dtype=torch.long)
        idx[turned < self.cfg.front_threshold] = SIDES.index("front")
        idx[turned > 180 - self.cfg.back_threshold] = SIDES.index("back")
        idx[elevation > self.cfg.overhead_threshold] = SIDES.index("overhead")
        return idx

    def get_text_embeddings(
        self,
        elevation: Float[Tensor, "B"],
        azimuth: Float[Tensor, "B"],
        camera_distances: Float[Tensor, "B"],
        view_dependent_prompting: bool = True,
    ) -> Float[Tensor, "BB N Nf"]:
        """Embeddings of B views: the B of the prompt first, then the B of the negative prompt."""
        if view_dependent_prompting:
            idx = self._direction_idx(elevation, azimuth)
            return torch.cat([self.text_embeddings_vd[idx], self.uncond_text_embeddings_vd[idx]])
        per_view = (elevation.shape[0], -1, -1)
        return torch.cat(
            [
                self.text_embeddings.expand(per_view),
                self.uncond_text_embeddings.expand(per_view),
            ]
        )

    def get_text_embeddings_perp_neg(
        self,
        elevation: Float[Tensor, "B"],
        azimuth: Float[Tensor, "B"],
        camera_distances: Float[Tensor, "B"],
        view_dependent_prompting: bool = True,
    ) -> tuple[Float[Tensor, "BBBB N Nf"], Float[Tensor, "B 2"]]:
        """Perp-Neg (Armandpour et al. 2023): positive prompts that blend from side to side.

        Between two neighbouring sides the positive embedding is their linear blend, and the sides
        that must not show become negatives, with weights f(r) = a exp(-b r) + c. Views from
        overhead keep their own prompt and get no negatives.

        Returns:
            Embeddings, in blocks: B positive, B unconditional, 2B negative (two in a row for each
            view), and the negatives' weights [B 2], at most zero for the default coefficients.

        Raises:
            ValueError: without view-dependent prompting.
        """
        if not view_dependent_prompting:
            raise ValueError(
                "system.prompt_processor.use_perp_neg=true needs prompts for each side: set "
                "system.guidance.view_dependent_prompting=true, or use_perp_neg=false."
            )
        idx = self._direction_idx(elevation, azimuth)
        uncond = self.uncond_text_embeddings_vd[idx]
        side, front, back, overhead = self.text_embeddings_vd[:4]

        turned = shift_azimuth_deg(azimuth).abs() / 90  # 0 front, 1 side, 2 back
        frontal = turned < 1
        r = torch.where(frontal, 1 - turned, 2 - turned)  # share of the side nearer to the front
        share = r.to(side)[:, None, None]
        near = _pick(frontal, front, side)
        far = _pick(frontal, side, back)
        positive = share * near + (1 - share) * far
        negatives = torch.stack([near, _pick(frontal, side, front)], dim=1)

        def f(name: str, r: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
            a, b, c = self.cfg[f"perp_neg_f_{name}"]
            return -(a * torch.exp(-b * r) + c)

        first = torch.where(frontal, f("fs", r), f("sb", r))
        second = torch.where(frontal, f("sf", 1 - r), f("fsb", r))
        weights = torch.stack([first, second], dim=1)

        from_above = idx == SIDES.index("overhead")
        positive = torch.where(from_above.to(side.device)[:, None, None], overhead, positive)
        mask = from_above.to(side.device)[:, None, None, None]
        negatives = torch.where(mask, uncond[:, None], negatives)
        weights = torch.where(from_above[:, None], torch.zeros_like(weights), weights)
        return torch.cat([positive, uncond, negatives.flatten(0, 1)]), weights


def _pick(
    mask: Bool[Tensor, "B"], yes: Float[Tensor, "N Nf"], no: Float[Tensor, "N Nf"]
) -> Float[Tensor, "B N Nf"]:
    return torch.where(mask.to(yes.device)[:, None, None], yes, no)


def _check_prompt(prompt: str, key: str) -> None:
    if not prompt.strip():
        raise ValueError(
            f"{key}={prompt!r} is empty: say what to make, for example "
            f'{key}="a blue cat wearing a red hat".'
        )
    if prompt.startswith("lib:"):
        raise ValueError(
            f"{key}={prompt!r} names a prompt of threestudio's library, which the standalone host "
            "does not have: write it out."
        )


class PromptProcessor(BaseObject):
    """Embeds a prompt, its view-dependent variants and the negative prompt when it is made.

    A subclass says how, in `prepare_text_embeddings` and `load_text_embeddings`.
    """

    @dataclass
    class Config(BaseObject.Config):
        prompt: Annotated[str, _check_prompt] = "a hamburger"

        # replace "<prompt>, front view" and so on
        prompt_front: str | None = None
        prompt_side: str | None = None
        prompt_back: str | None = None
        prompt_overhead: str | None = None

        negative_prompt: str = ""
        pretrained_model_name_or_path: str = "runwayml/stable-diffusion-v1-5"
        overhead_threshold: Annotated[float, "[-90, 90]"] = 60.0
        front_threshold: Annotated[float, "[0, 180]"] = 45.0
        back_threshold: Annotated[float, "[0, 180]"] = 45.0
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
        self.directions = SIDES
        self.prompt = self.cfg.prompt
        self.negative_prompt = self.cfg.negative_prompt
        self.prompts_vd = [
            self.cfg.get(f"prompt_{side}") or self._of_side(side, self.prompt) for side in SIDES
        ]
        self.negative_prompts_vd = [self.negative_prompt] * len(SIDES)
        threestudio.info(f"Prompt [{self.prompt}], negative prompt [{self.negative_prompt}]")
        threestudio.debug(f"View-dependent prompts {self.prompts_vd}")
        self.prepare_text_embeddings()
        self.load_text_embeddings()

    def _check_config(self) -> None:
        if self.cfg.use_prompt_debiasing:
            raise ValueError(
                "system.prompt_processor.use_prompt_debiasing=true is not supported by the "
                "standalone host: set it to false, or write prompt_front, prompt_side, "
                "prompt_back and prompt_overhead yourself."
            )

    def _of_side(self, side: str, prompt: str) -> str:
        if self.cfg.view_dependent_prompt_front:
            return f"{'backside' if side == 'back' else side} view of {prompt}"
        return f"{prompt}, {side} view"

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
            prompt=self.prompt,
            prompts_vd=self.prompts_vd,
            cfg=self.cfg,
        )
