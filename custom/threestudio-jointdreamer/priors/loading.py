"""Loads priors from folders, original checkpoints or the hub, or says what is wrong."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    ModelMixin,
)
from torch import nn

from ..weights.assembling import without_reports
from ..weights.models import NamedModel, open_model
from .fused_resnet import fuse_on_gpu
from .imagedream_unet import multiview_unet_class
from .latent_prior import LatentPrior
from .schedule import GaussianPath, NoiseSchedule, RectifiedFlow
from .sd3 import StableDiffusion3
from .sdxl import StableDiffusionXL

KEY = "pretrained_model_name_or_path"
HALF = (torch.float16, torch.bfloat16)
VAES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
Model = TypeVar("Model", bound=nn.Module)


def load_prior(
    name_or_path: str,
    device: torch.device,
    half_precision_weights: bool = True,
    vae_from: str | None = None,
    key: str = KEY,
    vae_key: str | None = None,
    change: Callable[[ModelMixin], Any] | None = None,
) -> LatentPrior:
    """A frozen latent prior in inference mode, of the family that its own config.json tells.

    Args:
        name_or_path: a folder with `unet/` or `transformer/` and `scheduler/`, an original
            checkpoint file, or the name of either on the hub (`owner/name`, `owner/name/file.pt`).
            Relative paths are looked up in the working directory, then in the repository.
        half_precision_weights: the family's half precision on a GPU, where an SDXL VAE that needs
            `force_upcast` is in bf16. The CPU always computes in fp32.
        vae_from: such a name with a VAE, mostly the same one, or of a folder that is one, an
            `AutoencoderKL` or `AutoencoderTiny`; None loads no VAE.
        key, vae_key: the config keys to name in errors; of the VAE the same one by default.
        change: called with the UNet or transformer, such as to add a LoRA.

    Raises:
        FileNotFoundError: a folder, a file, or a hub name that cannot be fetched.
        ValueError: weights that are truncated, or whose names or shapes do not fit the config.
    """
    half = precision(device, half_precision_weights) in HALF
    own_vae = ["vae"] if vae_from == name_or_path else []
    model, part = _open_denoiser(name_or_path, key, ["scheduler", *own_vae], half)

    def change_unet(unet: ModelMixin) -> None:
        if change is not None:
            change(unet)
        fuse_on_gpu(unet)

    config, _ = contents = model.read(part)
    family = family_of(config, model.described)
    model_class = multiview_unet_class(config) if family is LatentPrior else family.model_class
    dtype = family.half if half else torch.float32
    unet = model.load(model_class, part, device, dtype, contents, change_unet)
    schedule = read_schedule(model)
    if vae_from is None:
        return family(unet, schedule)
    of_vae = model if own_vae else _open_vae(vae_from, vae_key or key, half)
    part = "vae" if of_vae.has("vae") else ""
    config, _ = contents = of_vae.read(part)
    name = config.get("_class_name", "AutoencoderKL")
    if name not in VAES:
        raise ValueError(
            f"{of_vae.described} holds a {name}: use a VAE of the class {' or '.join(VAES)}."
        )
    if half and family is StableDiffusionXL and config.get("force_upcast"):
        dtype = torch.bfloat16
    vae = of_vae.load(VAES[name], part, device, dtype, contents, fuse_on_gpu)
    return family(unet, schedule, vae)


def family_of(config: Mapping[str, Any], described: str = "it") -> type[LatentPrior]:
    """The kind of prior that a UNet or transformer with this config.json is.

    Raises:
        ValueError: a class that no kind of prior has.
    """
    name = config.get("_class_name", "")
    if name == StableDiffusion3.model_class.__name__:
        return StableDiffusion3
    if name.endswith("Transformer2DModel"):
        raise ValueError(
            f"{described} holds a {name}: use Stable Diffusion 1, 2, 3 or 3.5, SDXL, or a "
            "fine-tune of one of them."
        )
    is_xl = config.get("addition_embed_type") == "text_time"
    return StableDiffusionXL if is_xl else LatentPrior


def _open_denoiser(
    name_or_path: str, key: str, parts: Sequence[str], half: bool
) -> tuple[NamedModel, str]:
    """A model with those parts, and which one of unet/ and transformer/ it has."""
    try:
        model = open_model(name_or_path, key, ["unet", *parts], half)
    except FileNotFoundError:
        try:
            return open_model(name_or_path, key, ["transformer", *parts], half), "transformer"
        except FileNotFoundError:
            pass
        raise
    only_transformer = model.has("transformer") and not model.has("unet")
    return model, "transformer" if only_transformer else "unet"


def _open_vae(name_or_path: str, key: str, half: bool) -> NamedModel:
    """A model with a part `vae`, or a folder that is a VAE."""
    part = "vae" if has_part(name_or_path, "vae", key) else ""
    return open_model(name_or_path, key, [part], half)


def load_model(
    model_class: type[Model],
    name_or_path: str,
    subfolder: str,
    device: torch.device,
    dtype: torch.dtype,
    key: str = KEY,
    **arguments: Any,
) -> Model:
    """One frozen model in eval mode, read straight to its device and dtype.

    Args:
        model_class: a diffusers or transformers model, or a subclass of our own of `ModelMixin`.
        name_or_path: as `load_prior`'s.
        subfolder: the model's part of it, such as `unet`; empty for a folder that is one model.
        arguments: further keyword arguments of `model_class`.

    Raises: as `load_prior`.
    """
    model = open_model(name_or_path, key, [subfolder], dtype in HALF)
    return model.load(model_class, subfolder, device, dtype, **arguments)


def load_schedule(name_or_path: str, key: str = KEY) -> GaussianPath:
    """The noise schedule in `scheduler/`, whichever sampler it was written for."""
    return read_schedule(open_model(name_or_path, key, ["scheduler"]))


def read_schedule(model: NamedModel) -> GaussianPath:
    """The noise schedule of an open model; raises as `load_prior`."""
    config, _ = model.read("scheduler")
    try:
        with without_reports():
            if str(config.get("_class_name")).startswith("FlowMatch"):
                flow = FlowMatchEulerDiscreteScheduler.from_config(config)
                return RectifiedFlow(flow.sigmas[: flow.config.num_train_timesteps].flip(0))
            scheduler = DDIMScheduler.from_config(config)
        return NoiseSchedule(scheduler.alphas_cumprod, scheduler.config.prediction_type)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"{model.described}: scheduler/ holds no noise schedule that can be used ({error})."
        ) from error


def has_part(name_or_path: str, subfolder: str, key: str = KEY) -> bool:
    """Whether a model brings a part of its own, such as a VAE, which is fetched if it does.

    A hub that cannot be asked is taken for one that does not have what is not cached.
    """
    try:
        return open_model(name_or_path, key, [subfolder]).has(subfolder)
    except FileNotFoundError:
        return False


def precision(device: torch.device, half_precision_weights: bool) -> torch.dtype:
    """fp16 on a GPU, if it is wished for; fp32 on the CPU."""
    half = half_precision_weights and torch.device(device).type == "cuda"
    return torch.float16 if half else torch.float32
