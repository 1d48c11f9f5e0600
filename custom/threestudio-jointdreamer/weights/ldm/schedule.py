"""The noise schedule of an LDM checkpoint as the config of a diffusers scheduler."""

from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

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
    config: dict[str, Any] = {
        "_class_name": DDIMScheduler.__name__,
        "num_train_timesteps": 1000,  # as Stable Diffusion 1 and 2, MVDream and Zero-1-to-3
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction_type,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    if betas is not None:
        steps = config["num_train_timesteps"] = len(betas)
        # undoes what float32 did to the decimal numbers
        start, end = (float(f"{beta.item():.5g}") for beta in (betas[0], betas[-1]))
        scaled_linear = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        if torch.allclose(betas.double(), scaled_linear, rtol=1e-4, atol=0):
            config |= {"beta_start": start, "beta_end": end}
        else:
            config["trained_betas"] = betas.double().tolist()
    return config
