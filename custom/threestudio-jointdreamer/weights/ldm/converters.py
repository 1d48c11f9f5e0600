"""diffusers' own converters of LDM's names, which have no public entry."""

from collections.abc import Callable, Mapping

from torch import Tensor


def diffusers_converter(part: str) -> Callable[..., Mapping[str, Tensor]]:
    """The converter of a `unet` or `vae`: (weights by LDM's names, config) to diffusers' names.

    Raises:
        ImportError: this release of diffusers has it no longer.
    """
    try:
        from diffusers.loaders import single_file_utils

        return getattr(single_file_utils, f"convert_ldm_{part}_checkpoint")
    except (ImportError, AttributeError) as error:
        import diffusers

        raise ImportError(
            f"diffusers {diffusers.__version__} has no convert_ldm_{part}_checkpoint, with which "
            "original checkpoints are read: install an earlier one (0.42 has it), or use a folder "
            "in diffusers layout."
        ) from error
