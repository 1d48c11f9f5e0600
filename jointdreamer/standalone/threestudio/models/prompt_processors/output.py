"""What a prompt processor hands to the guidance: text embeddings, picked by camera."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threestudio.utils.ops import shifted_expotional_decay


def shift_azimuth_deg(azimuth: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The same angles in [-180, 180)."""
    return (azimuth + 180) % 360 - 180


@dataclass
class DirectionConfig:
    """A side of the object: how prompts mention it, and which cameras see it.

    `condition` takes elevation, azimuth (degrees) and camera distance [B], and gives a mask [B].
    """

    name: str
    prompt: Callable[[str], str]
    negative_prompt: Callable[[str], str]
    condition: Callable[
        [Float[Tensor, "B"], Float[Tensor, "B"], Float[Tensor, "B"]], Bool[Tensor, "B"]
    ]


@dataclass
class PromptProcessorOutput:
    """Embeddings of the plain prompt [1 N Nf], and one for each of the Nv directions.

    The directions are side, front, back, overhead, in this order.
    """

    text_embeddings: Float[Tensor, "1 N Nf"]
    uncond_text_embeddings: Float[Tensor, "1 N Nf"]
    text_embeddings_vd: Float[Tensor, "Nv N Nf"]
    uncond_text_embeddings_vd: Float[Tensor, "Nv N Nf"]
    directions: list[DirectionConfig]
    direction2idx: dict[str, int]
    use_perp_neg: bool
    perp_neg_f_sb: tuple[float, float, float]
    perp_neg_f_fsb: tuple[float, float, float]
    perp_neg_f_fs: tuple[float, float, float]
    perp_neg_f_sf: tuple[float, float, float]
    prompt: str
    prompts_vd: list[str]

    def _direction_idx(
        self,
        elevation: Float[Tensor, "B"],
        azimuth: Float[Tensor, "B"],
        camera_distances: Float[Tensor, "B"],
    ) -> Int[Tensor, "B"]:
        """The last direction whose condition holds; the first one where none does."""
        idx = torch.zeros_like(elevation, dtype=torch.long)
        for direction in self.directions:
            seen = direction.condition(elevation, azimuth, camera_distances)
            idx[seen] = self.direction2idx[direction.name]
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
            idx = self._direction_idx(elevation, azimuth, camera_distances)
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
        idx = self._direction_idx(elevation, azimuth, camera_distances)
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

        first = torch.where(
            frontal,
            -shifted_expotional_decay(*self.perp_neg_f_fs, r),
            -shifted_expotional_decay(*self.perp_neg_f_sb, r),
        )
        second = torch.where(
            frontal,
            -shifted_expotional_decay(*self.perp_neg_f_sf, 1 - r),
            -shifted_expotional_decay(*self.perp_neg_f_fsb, r),
        )
        weights = torch.stack([first, second], dim=1)

        from_above = idx == 3
        positive = torch.where(from_above.to(side.device)[:, None, None], overhead, positive)
        mask = from_above.to(side.device)[:, None, None, None]
        negatives = torch.where(mask, uncond[:, None], negatives)
        weights = torch.where(from_above[:, None], torch.zeros_like(weights), weights)
        return torch.cat([positive, uncond, negatives.flatten(0, 1)]), weights


def _pick(
    mask: Bool[Tensor, "B"], yes: Float[Tensor, "N Nf"], no: Float[Tensor, "N Nf"]
) -> Float[Tensor, "B N Nf"]:
    return torch.where(mask.to(yes.device)[:, None, None], yes, no)
