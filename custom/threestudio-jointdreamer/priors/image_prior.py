"""Makes any image-to-image diffusion model look the same to an energy: a view from a picture."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from ..weights.models import open_model
from .fused_resnet import fuse_on_gpu
from .latent_prior import LatentPrior
from .loading import HALF, KEY, precision, read_schedule

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pictures that CLIP was trained on
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Cameras:
    """Where each object's views and its reference are seen from, all looking at the object.

    Attributes:
        views, reference: elevation and azimuth in degrees, then the distance.
    """

    views: Float[Tensor, "N V 3"]
    reference: Float[Tensor, "N 1 3"]

    @property
    def azimuth_offset(self) -> Float[Tensor, "N V"]:
        """Degrees from the reference, counter-clockwise seen from above, in [0, 360)."""
        return (self.views[..., 1] - self.reference[..., 1]) % 360


@dataclass(frozen=True)
class Reference:
    """The picture that the views are made from, as the model takes it in.

    Attributes:
        embedding: CLIP's image embedding.
        latents: what is joined to the noisy latents as further channels.
    """

    embedding: Float[Tensor, "N D"]
    latents: Float[Tensor, "N C h w"]


@dataclass(frozen=True)
class ImagePriorOptions:
    """What a user may choose; a kind of model takes what concerns it.

    Attributes:
        cross_domain: Wonder3D predicts normals and colours together, not colours alone.
        azimuth_tolerance, elevation_tolerance: degrees that a view may be away from where Wonder3D
            assumes it.
    """

    cross_domain: bool = False
    azimuth_tolerance: float = 5.0
    elevation_tolerance: float = 15.0


NO_OPTIONS = ImagePriorOptions()


class ImagePrior(ABC):
    """A latent diffusion model that predicts views of an object from one picture of it.

    A kind of your own is a subclass with what is abstract here, under `@register_image_prior`.

    Args:
        prior: UNet, schedule and VAE; images are encoded by it as by any other.
        image_encoder: CLIP's image tower.
        options: of the user.
        parts: models of `part_classes`, which become attributes.

    Attributes:
        kind: its name in messages.
        joint: whether the views of an object are predicted together. If not, the reference view
            is never asked for.
        crosses_domains: whether `cross_domain` may be chosen.
        unet_class: what `unet/` is loaded as.
        part_classes: what a model of this kind has beside unet, vae, scheduler and image_encoder,
            by the name of its folder.
    """

    kind: ClassVar[str]
    joint: ClassVar[bool] = False
    crosses_domains: ClassVar[bool] = False
    unet_class: ClassVar[type[UNet2DConditionModel]] = UNet2DConditionModel
    part_classes: ClassVar[dict[str, type[nn.Module]]] = {}

    def __init__(
        self,
        prior: LatentPrior,
        image_encoder: CLIPVisionModelWithProjection,
        options: ImagePriorOptions,
        **parts: nn.Module,
    ) -> None:
        self.prior = prior
        self.image_encoder = image_encoder
        self.options = options
        for name, part in parts.items():
            setattr(self, name, part)
        width = self.token_width()
        if width != prior.text_dim:
            raise ValueError(
                f"The UNet attends to tokens of {prior.text_dim} numbers, but image_encoder/ and "
                f"what follows it make {width}: load all parts from one model."
            )

    def token_width(self) -> int:
        """How wide the tokens are that the UNet attends to."""
        return self.image_encoder.config.projection_dim

    @staticmethod
    @abstractmethod
    def recognises(unet_config: dict[str, Any]) -> bool:
        """Whether a model with this unet/config.json is of this kind."""

    @abstractmethod
    def look_at(self, rgb: Float[Tensor, "N 3 H W"]) -> Reference:
        """Takes in the reference pictures, in [0, 1] and of any size."""

    @abstractmethod
    def predict_noise(
        self,
        x_t: Float[Tensor, "N V C h w"],
        t: Int[Tensor, " N"],
        reference: Reference,
        cameras: Cameras,
        guided: bool,
    ) -> tuple[Float[Tensor, "N V C h w"], Float[Tensor, "N V C h w"] | None]:
        """ε for the noisy views given the reference, and without it if `guided`, in one call.

        Raises:
            ValueError: cameras that this model was not made for.
        """

    def _embed(
        self, pixels: Float[Tensor, "N 3 H W"], align_corners: bool, antialias: bool
    ) -> Float[Tensor, "N D"]:
        """CLIP's embedding of pictures in [0, 1], resized (bicubic) to its own size."""
        normalised = clip_pixels(pixels, self.image_encoder, align_corners, antialias)
        return self.image_encoder(normalised).image_embeds.to(pixels.dtype)

    def _mode(self, pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
        """The most likely latents of pictures in [0, 1], not scaled."""
        posterior = self.prior.vae.encode((pixels * 2 - 1).to(self.prior.dtype)).latent_dist
        return posterior.mode().to(pixels.dtype)


def clip_pixels(
    pixels: Float[Tensor, "N 3 H W"], image_encoder: nn.Module, align_corners: bool, antialias: bool
) -> Float[Tensor, "N 3 h w"]:
    """Pictures in [0, 1] as CLIP's image tower takes them: resized (bicubic) and normalised."""
    size = image_encoder.config.image_size
    pixels = F.interpolate(
        pixels, (size, size), mode="bicubic", align_corners=align_corners, antialias=antialias
    )
    if antialias:  # an image library's resizing, which cannot leave the range of colours
        pixels = pixels.clamp(0, 1)
    mean, std = (pixels.new_tensor(x).view(3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
    return ((pixels - mean) / std).to(image_encoder.dtype)


KINDS: list[type[ImagePrior]] = []


def register_image_prior(cls: type[ImagePrior]) -> type[ImagePrior]:
    """Makes a kind of image-to-image model known; a class decorator.

    Kinds that were registered later are asked first whether they recognise a model.
    """
    KINDS.insert(0, cls)
    return cls


def load_image_prior(
    name_or_path: str,
    device: torch.device,
    half_precision_weights: bool = True,
    vae_from: str | None = None,
    key: str = KEY,
    options: ImagePriorOptions = NO_OPTIONS,
) -> ImagePrior:
    """A frozen image-to-image model, of the kind that its own unet/config.json tells.

    Args:
        name_or_path, half_precision_weights, key: as `load_prior`'s; a folder also holds
            image_encoder/.
        vae_from: another model whose VAE is used.

    Raises:
        FileNotFoundError, ValueError: as `load_prior`, or a model of no known kind, or an option
            that its kind lacks.
    """
    dtype = precision(device, half_precision_weights)
    half = dtype in HALF
    needed = ["unet", "scheduler", "image_encoder", *([] if vae_from else ["vae"])]
    model = open_model(name_or_path, key, needed, half)
    contents = model.read("unet")
    kind = _kind_of(contents[0], model.described, options)
    of_parts = model
    if not all(model.has(part) for part in kind.part_classes):  # they are still on the hub
        of_parts = open_model(name_or_path, key, list(kind.part_classes), half)
    parts = {
        name: of_parts.load(model_class, name, device, dtype)
        for name, model_class in kind.part_classes.items()
    }
    unet = model.load(kind.unet_class, "unet", device, dtype, contents, fuse_on_gpu)
    of_vae = open_model(vae_from, key, ["vae"], half) if vae_from else model
    vae = of_vae.load(AutoencoderKL, "vae", device, dtype, change=fuse_on_gpu)
    encoder = model.load(CLIPVisionModelWithProjection, "image_encoder", device, dtype)
    condition_channels = unet.config.in_channels - unet.config.out_channels
    prior = LatentPrior(unet, read_schedule(model), vae, condition_channels)
    return kind(prior, encoder, options, **parts)


def _kind_of(
    unet_config: dict[str, Any], described: str, options: ImagePriorOptions
) -> type[ImagePrior]:
    kind = next((kind for kind in KINDS if kind.recognises(unet_config)), None)
    if kind is None:
        found = [f"{k}={unet_config.get(k)}" for k in ("_class_name", "in_channels")]
        raise ValueError(
            f"{described} holds no image-to-image model: its unet/config.json has "
            f"{', '.join(found)} and class_embed_type={unet_config.get('class_embed_type')}. Use a "
            f"model of one of these kinds: {', '.join(sorted(kind.kind for kind in KINDS))}."
        )
    if options.cross_domain and not kind.crosses_domains:
        raise ValueError(
            f"energy.cross_domain=true, but {described} is a {kind.kind} model, "
            "which predicts colours only: set energy.cross_domain=false."
        )
    return kind


def with_nothing(x: Tensor, guided: bool) -> Tensor:
    """A condition, `B ...`, followed by zeros, which stand for none, if the model is `guided`."""
    return torch.cat([x, torch.zeros_like(x)]) if guided else x
