"""Keeps priors' UNets in the computer's memory, and on the GPU only while they compute."""

from collections.abc import Callable, Sequence

from .latent_prior import LatentPrior


def offload(priors: Sequence[LatentPrior], key: str) -> Callable[[], None]:
    """Has each prior's UNet or transformer brought to its device by a call, in place of the others.

    Accelerate's hooks move the weights, some seconds a step, so that calls are no CUDA graphs any
    more, which know the weights by their addresses. VAEs, which gradients go through, stay.

    Returns:
        A function that moves all of them off the device.

    Raises:
        ValueError: accelerate is missing.
    """
    try:
        from accelerate import cpu_offload_with_hook
    except ImportError:
        install = 'pip install "threestudio-jointdreamer[offload]"'
        raise ValueError(f"{key}=true needs accelerate: {install}.") from None
    hooks, last = [], None
    for prior in priors:
        prior.graphs = None
        _, last = cpu_offload_with_hook(prior.unet, prior.device, prev_module_hook=last)
        hooks.append(last)

    def offload_all() -> None:
        for hook in hooks:
            hook.offload()

    return offload_all
