"""ImageDream (Wang, Shi 2023, arXiv 2312.02201): MVDream that is shown a picture of its object."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPVisionModel, CLIPVisionModelWithProjection, PreTrainedModel

from ..weights.models import open_model
from .image_prior import clip_pixels
from .latent_prior import LatentPrior, resize
from .loading import HALF
from .multiview import MultiviewPrior


@dataclass(frozen=True)
class ImagePrompt:
    """Pictures of the objects as the model takes them in; zeros stand for none.

    Attributes:
        hidden: what CLIP's last layer but one makes of them.
        latents: scaled, of the frame that is added to the views.
    """

    hidden: Float[Tensor, "N L D"]
    latents: Float[Tensor, "N C h w"]

    def for_passes(self, passes: int) -> "ImagePrompt":
        """The pictures for the first pass over all objects, and none for those after it."""
        both = (self.hidden, self.latents)
        return ImagePrompt(*(torch.cat([x] + [0 * x] * (passes - 1)) for x in both))


class ImageDream(MultiviewPrior):
    """MVDream that is also given a picture of the object.

    Args:
        prior: with an `ImageDreamUNet`.
        image_encoder: CLIP's image tower.
        extra_frame: the picture is also a frame without a camera beside the views, which attend to
            it (the authors' model in `pixel` mode); else it is tokens alone (`local`).

    Raises:
        ValueError: the UNet was made for another image encoder.
    """

    def __init__(
        self, prior: LatentPrior, described: str, image_encoder, extra_frame: bool = True
    ) -> None:
        super().__init__(prior, described)
        self.image_encoder, self.extra_frame = image_encoder, extra_frame
        wanted = prior.unet.config.image_projection["embed_dims"]
        found = image_encoder.config.hidden_size
        if found != wanted:
            raise ValueError(
                f"{described} takes image features of {wanted} numbers, but the image encoder "
                f"makes {found}: use the CLIP that the model was trained with, ViT-H/14 for the "
                "published ones."
            )

    def look_at(self, rgb: Float[Tensor, "N 3 H W"], vae: LatentPrior) -> ImagePrompt:
        """Takes in square pictures in [0, 1]; `vae` is the prior whose VAE encodes the frame."""
        pixels = clip_pixels(rgb, self.image_encoder, align_corners=False, antialias=True)
        hidden = self.image_encoder(pixels, output_hidden_states=True).hidden_states[-2]
        size = self.prior.latent_size
        frame = resize(rgb, size * vae.downsampling, antialias=True)
        return ImagePrompt(hidden.to(rgb.dtype), vae.encode(frame, size))

    def predict_noise(
        self,
        x_t: Float[Tensor, "N V C h w"],
        t: Int[Tensor, " N"],
        text_embeddings: Float[Tensor, "N V L D"],
        c2w: Float[Tensor, "N V 4 4"],
        image: ImagePrompt,
    ) -> Float[Tensor, "N V C h w"]:
        n_view = x_t.shape[1]
        self.prior.check_text(text_embeddings)
        if self.extra_frame:
            x_t = torch.cat([x_t, image.latents[:, None]], dim=1)
            text_embeddings = torch.cat([text_embeddings, text_embeddings[:, -1:]], dim=1)
            c2w = F.pad(c2w, (0, 0, 0, 0, 0, 1))  # whose camera vector is zeros, too
        tokens = self.prior.unet.encoder_hid_proj(image.hidden.to(self.prior.dtype))[:, None]
        tokens = tokens.expand(-1, x_t.shape[1], -1, -1).to(text_embeddings.dtype)
        text_embeddings = torch.cat([text_embeddings, tokens], dim=2)
        return super().predict_noise(x_t, t, text_embeddings, c2w)[:, :n_view]


def load_image_encoder(
    name_or_path: str, key: str, device: torch.device, dtype: torch.dtype
) -> CLIPVisionModel | CLIPVisionModelWithProjection:
    """CLIP's image tower, with or without the projection that nobody here needs.

    Raises:
        FileNotFoundError, ValueError: as `load_prior`.
    """
    model = open_model(name_or_path, key, ["image_encoder"], dtype in HALF)
    contents = model.read("image_encoder")
    model_class = image_encoder_class(contents[1])
    return model.load(model_class, "image_encoder", device, dtype, contents)


def image_encoder_class(weights: Mapping[str, Tensor]) -> type[PreTrainedModel]:
    """What CLIP's image tower was saved as: with the projection to its embedding, or without."""
    projects = "visual_projection.weight" in weights
    return CLIPVisionModelWithProjection if projects else CLIPVisionModel
