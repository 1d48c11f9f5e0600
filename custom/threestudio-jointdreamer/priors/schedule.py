"""The noise schedules of diffusion priors: how clean latents, noise and noisy latents relate."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "v_prediction")
WEIGHTINGS = ("sds", "uniform", "fantasia3d")
LEAST_ALPHA = 1e-3  # of a flow, which is divided by it


class GaussianPath(ABC):
    """Noisy latents x_t = α_t x + σ_t ε, from the data at t = 0 to noise.

    On every such path the score of x_t is −E[ε | x_t] / σ_t, so that a prior is told by its ε̂
    whatever its path is. Timesteps are integers in [0, T); every method takes one per batch item
    and broadcasts it over the item's remaining axes.
    """

    @property
    @abstractmethod
    def num_train_timesteps(self) -> int:
        """T."""

    @abstractmethod
    def to(self, device: torch.device) -> "GaussianPath":
        """The same path on a device."""

    @abstractmethod
    def alpha(self, t: Int[Tensor, " B"], like: Tensor) -> Tensor:
        """α_t as `[B, 1, ..., 1]` to multiply `like` [B ...] with, in its precision or float32."""

    @abstractmethod
    def variance(self, t: Int[Tensor, " B"], like: Tensor) -> Tensor:
        """σ_t², likewise."""

    @abstractmethod
    def to_epsilon(
        self, output: Float[Tensor, "B ..."], x_t: Float[Tensor, "B ..."], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """What the model of this path outputs, as ε̂."""

    def sigma(self, t: Int[Tensor, " B"], like: Tensor) -> Tensor:
        """σ_t, likewise."""
        return self.variance(t, like).sqrt()

    def model_time(self, t: Int[Tensor, " B"]) -> Tensor:
        """t as the model is told it."""
        return t

    def weight(self, strategy: str, t: Int[Tensor, " B"], like: Tensor) -> Tensor:
        """w(t) of ε̂ − ε in the SDS gradient: `sds` σ_t², `uniform` 1, `fantasia3d` α_t σ_t²."""
        variance = self.variance(t, like)
        if strategy == "fantasia3d":
            return self.alpha(t, like) * variance
        return variance if strategy == "sds" else torch.ones_like(variance)

    def add_noise(
        self, x: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """x_t = α_t x + σ_t ε."""
        return self.alpha(t, x) * x + self.sigma(t, x) * eps

    def denoise(
        self, x_t: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """x̂0 = (x_t − σ_t ε) / α_t, the one-step estimate of the clean latents."""
        return (x_t - self.sigma(t, x_t) * eps) / self.alpha(t, x_t)

    def to_noise(
        self, x_t: Float[Tensor, "B ..."], x0: Float[Tensor, "B ..."], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """ε = (x_t − α_t x̂0) / σ_t, the noise that `denoise` would have needed for x̂0."""
        return (x_t - self.alpha(t, x_t) * x0) / self.sigma(t, x_t)

    def nearest(self, other: "GaussianPath", t: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Where this path is as noisy, by σ/α, as `other` at its t: t itself if both are equal."""

        def noisiness(path: GaussianPath, t: Tensor) -> Float[Tensor, "B"]:
            like = torch.empty(len(t), device=t.device)
            return (path.sigma(t, like) / path.alpha(t, like)).log()

        mine = noisiness(self, torch.arange(self.num_train_timesteps, device=t.device))
        return (mine - noisiness(other, t)[:, None]).abs().argmin(dim=1)

    def restate(
        self, x_t: Float[Tensor, "B ..."], t: Int[Tensor, " B"], other: "GaussianPath"
    ) -> Float[Tensor, "B ..."]:
        """`other`'s noisy latents at its t as this path's at `nearest`, with the same x and ε."""
        return x_t * (self.alpha(self.nearest(other, t), x_t) / other.alpha(t, x_t))


class NoiseSchedule(GaussianPath):
    """Variance-preserving noise, x_t = √ᾱ_t x + σ_t ε with σ_t = √(1 − ᾱ_t) (DDPM, Ho et al. 2020).

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
        """ᾱ_t as `alpha` gives its square root."""
        return _of_items(self.alphas_cumprod, t, like)

    def alpha(self, t: Int[Tensor, " B"], like: Tensor) -> Tensor:
        return self.alpha_bar(t, like).sqrt()

    def variance(self, t: Int[Tensor, " B"], like: Tensor) -> Tensor:
        return 1 - self.alpha_bar(t, like)

    def to_epsilon(
        self, output: Float[Tensor, "B ..."], x_t: Float[Tensor, "B ..."], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """Itself, or ε = √ᾱ_t v + σ_t x_t for a v-predicting model."""
        if self.prediction_type == "epsilon":
            return output
        return self.alpha_bar(t, x_t).sqrt() * output + self.sigma(t, x_t) * x_t


class RectifiedFlow(GaussianPath):
    """The straight path x_t = (1 − σ) x + σ ε (Liu et al. 2022, arXiv 2209.03003), as SD3's.

    Its model estimates the velocity v̂ of ε − x, so that x̂0 = x_t − σ v̂ and ε̂ = x_t + (1 − σ) v̂.
    Flow distillation (RFDS, arXiv 2406.03293) has the gradient w (v̂ − (ε − x)), and as

        ε̂ − ε = (1 − σ) (v̂ − (ε − x)),

    this is SDS's w (ε̂ − ε) with w divided by 1 − σ, which `weight` does. So is JSD's: ∂C/∂x_t added
    to the score −ε̂/σ is −σ ∂C/∂x_t on ε̂, and −σ/(1 − σ) ∂C/∂x_t on v̂.

    Args:
        sigmas: σ for t = 0..T−1, rising. The last ones are bounded by 1 − `LEAST_ALPHA`.
    """

    def __init__(self, sigmas: Float[Tensor, " T"]) -> None:
        self.sigmas = sigmas.clamp(max=1 - LEAST_ALPHA)

    @property
    def num_train_timesteps(self) -> int:
        return len(self.sigmas)

    def to(self, device: torch.device) -> "RectifiedFlow":
        return RectifiedFlow(self.sigmas.to(device))

    def alpha(self, t: Int[Tensor, " B"], like: Tensor) -> Tensor:
        return 1 - self.sigma(t, like)

    def sigma(self, t: Int[Tensor, " B"], like: Tensor) -> Tensor:
        return _of_items(self.sigmas, t, like)

    def variance(self, t: Int[Tensor, " B"], like: Tensor) -> Tensor:
        return self.sigma(t, like) ** 2

    def model_time(self, t: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """σ T."""
        return self.sigmas[t] * self.num_train_timesteps

    def weight(self, strategy: str, t: Int[Tensor, " B"], like: Tensor) -> Tensor:
        """w(t) of v̂ − (ε − x), which is (ε̂ − ε) / (1 − σ)."""
        return super().weight(strategy, t, like) / self.alpha(t, like)

    def denoise(
        self, x_t: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """x̂0 = x_t − σ v̂; where ε̂ is a constant, so is v̂, and ∂x̂0/∂x_t = 1."""
        v = (eps - x_t) / self.alpha(t, x_t)
        return x_t - self.sigma(t, x_t) * (v if eps.requires_grad else v.detach())

    def to_epsilon(
        self, output: Float[Tensor, "B ..."], x_t: Float[Tensor, "B ..."], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """ε̂ = x_t + (1 − σ) v̂."""
        return x_t + self.alpha(t, x_t) * output


def _of_items(table: Float[Tensor, " T"], t: Int[Tensor, " B"], like: Tensor) -> Tensor:
    table = table.to(torch.promote_types(like.dtype, torch.float32))
    return table[t].view(-1, *[1] * (like.ndim - 1))
