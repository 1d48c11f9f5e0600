"""The noise schedule of an LDM checkpoint as the config of a diffusers scheduler."""

from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

# Stable Diffusion 1 and 2, MVDream and Zero-1-to-3 all have this one
STEPS, BETA_START, BETA_END = 1000, 0.00085, 0.012
# how the names begin that LDM saves of its schedule; all of it follows from the betas
BUFFERS = (
    *("betas", "alphas_cumprod", "sqrt_", "log_one_minus_", "posterior_"),
    *("logvar", "lvlb_weights", "scale_factor"),
)


def scheduler_config(betas: Tensor | None, prediction_type: str) -> dict[str, Any]:
    """The schedule that the checkpoint's betas tell, or else the one that all models share.

    LDM's `linear` schedule is linear in √β, which diffusers calls `scaled_linear`; betas of any
    other kind are kept one by one.

    Args:
        prediction_type: `epsilon` or `v_prediction`.
    """
    return {
        "_class_name": DDIMScheduler.__name__,
        **_betas(betas),
        "prediction_type": prediction_type,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }


def _betas(betas: Tensor | None) -> dict[str, Any]:
    steps, start, end = STEPS, BETA_START, BETA_END
    if betas is not None:
        steps, start, end = len(betas), _rounded(betas[0]), _rounded(betas[-1])
        scaled_linear = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        if not torch.allclose(betas.double(), scaled_linear, rtol=1e-4, atol=0):
            return {"num_train_timesteps": steps, "trained_betas": betas.double().tolist()}
    return {
        "num_train_timesteps": steps,
        "beta_start": start,
        "beta_end": end,
        "beta_schedule": "scaled_linear",
    }


def _rounded(beta: Tensor) -> float:
    return float(f"{beta.item():.5g}")  # undoes what float32 did to the decimal number
