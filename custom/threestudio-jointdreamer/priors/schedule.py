"""The noise schedule of a diffusion prior: how clean latents, noise and noisy latents relate."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "v_prediction")


class NoiseSchedule:
    """Variance-preserving noise, x_t = √ᾱ_t x + σ_t ε with σ_t = √(1 − ᾱ_t) (DDPM, Ho et al. 2020).

    Timesteps are integers in [0, T); every method takes one per batch item and broadcasts it over
    the item's remaining axes.

    Args:
        alphas_cumprod: ᾱ_t for t = 0..T−1.
        prediction_type: what the model of this schedule outputs, `epsilon` or `v_prediction`
            (Salimans & Ho 2022); only `to_epsilon` cares.

    Example:
        >>> schedule = NoiseSchedule(torch.linspace(0.999, 0.001, 1000))
        >>> x_t = schedule.add_noise(x, eps, t)
        >>> torch.testing.assert_close(schedule.denoise(x_t, eps, t), x)
    """

    def __init__(
        self, alphas_cumprod: Float[Tensor, " T"], prediction_type: str = "epsilon"
    ) -> None:
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"prediction_type={prediction_type!r} of the scheduler is not supported: "
                f"use a model trained for one of {', '.join(PREDICTION_TYPES)}."
            )
        self.alphas_cumprod = alphas_cumprod
        self.prediction_type = prediction_type

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def to(self, device: torch.device) -> "NoiseSchedule":
        return NoiseSchedule(self.alphas_cumprod.to(device), self.prediction_type)

    def alpha_bar(self, t: Int[Tensor, " B"], like: Tensor) -> Tensor:
        """ᾱ_t as `[B, 1, ..., 1]` to multiply `like` [B ...] with, in its precision or float32."""
        alphas = self.alphas_cumprod.to(torch.promote_types(like.dtype, torch.float32))
        return alphas[t].view(-1, *[1] * (like.ndim - 1))

    def sigma(self, t: Int[Tensor, " B"], like: Tensor) -> Tensor:
        """σ_t = √(1 − ᾱ_t) as `[B, 1, ..., 1]`."""
        return (1 - self.alpha_bar(t, like)).sqrt()

    def add_noise(
        self, x: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """x_t = √ᾱ_t x + σ_t ε."""
        return self.alpha_bar(t, x).sqrt() * x + self.sigma(t, x) * eps

    def denoise(
        self, x_t: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """x̂0 = (x_t − σ_t ε) / √ᾱ_t, the one-step estimate of the clean latents."""
        return (x_t - self.sigma(t, x_t) * eps) / self.alpha_bar(t, x_t).sqrt()

    def to_noise(
        self, x_t: Float[Tensor, "B ..."], x0: Float[Tensor, "B ..."], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """ε = (x_t − √ᾱ_t x̂0) / σ_t, the noise that `denoise` would have needed for x̂0."""
        return (x_t - self.alpha_bar(t, x_t).sqrt() * x0) / self.sigma(t, x_t)

    def to_epsilon(
        self, output: Float[Tensor, "B ..."], x_t: Float[Tensor, "B ..."], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """A model's raw output as ε: itself, or ε = √ᾱ_t v + σ_t x_t for a v-predicting model."""
        if self.prediction_type == "epsilon":
            return output
        return self.alpha_bar(t, x_t).sqrt() * output + self.sigma(t, x_t) * x_t
