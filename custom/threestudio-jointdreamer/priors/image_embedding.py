"""Image embeddings by CLIP or DINO, whichever a folder or hub name holds."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPModel, Dinov2Model

from ..weights.models import open_model
from .dino import IMAGE_MEAN, IMAGE_STD, cls_features, load_dino
from .latent_prior import resize
from .loading import HALF, KEY, precision


@dataclass(frozen=True)
class ImageEmbedding:
    """Pictures to unit vectors, differentiably.

    Attributes:
        embed: pictures of `image_size` pixels, normalised with mean and std, to vectors.
    """

    embed: Callable[[Float[Tensor, "B 3 S S"]], Float[Tensor, "B D"]]
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Of pictures in [0, 1] of any size, which are resized (bilinear, antialiased) first."""
        mean, std = (images.new_tensor(x)[:, None, None] for x in (self.mean, self.std))
        images = resize((images - mean) / std, self.image_size, antialias=True)
        return F.normalize(self.embed(images).to(images.dtype), dim=-1)


def load_image_embedding(
    name_or_path: str, device: torch.device, half_precision_weights: bool = True, key: str = KEY
) -> ImageEmbedding:
    """A frozen CLIP's or DINO's.

    Args:
        name_or_path: a CLIP in transformers' layout, folder or hub name, such as
            openai/clip-vit-large-patch14 or laion/CLIP-ViT-H-14-laion2B-s32B-b79K (OpenCLIP's);
            a DINO as `load_dino` takes it; or a DINOv2, such as facebook/dinov2-small.
        half_precision_weights: fp16 on a GPU. The CPU always computes in fp32.
        key: the config key to name in errors.

    Raises:
        FileNotFoundError: a folder, a file, or a hub name that cannot be fetched.
        ValueError: it holds neither, or is damaged.
    """
    dtype = precision(device, half_precision_weights)
    model = open_model(name_or_path, key, [""], dtype in HALF)
    contents = config, _ = model.read("")
    kind = config.get("model_type", "vit")  # which an original file does not say
    mean, std = IMAGE_MEAN, IMAGE_STD
    if kind == "vit":
        dino = load_dino(name_or_path, device, dtype, key)
        embed, size = partial(cls_features, dino), dino.config.image_size
    elif kind == "dinov2":
        dino = model.load(Dinov2Model, "", device, dtype, contents)
        size = dino.config.image_size
        embed = partial(_of_tower, dino, None)
    elif kind == "clip":
        clip = model.load(CLIPModel, "", device, dtype, contents)
        size, mean, std = clip.config.vision_config.image_size, [0.5] * 3, [0.5] * 3
        embed = partial(_of_tower, clip.vision_model, clip.visual_projection)  # not the text's half
    else:
        raise ValueError(
            f"{model.described} holds a {kind}: give a CLIP, such as openai/clip-vit-base-patch32, "
            "or a DINO, such as facebook/dinov2-small."
        )
    path = model.files.path / "preprocessor_config.json"
    said = json.loads(path.read_text()) if path.is_file() else {}
    size = (said.get("crop_size") or {}).get("height", size)
    return ImageEmbedding(embed, size, said.get("image_mean", mean), said.get("image_std", std))


def _of_tower(tower: nn.Module, project: nn.Module | None, images: Tensor) -> Tensor:
    seen = tower(pixel_values=images.to(tower.dtype)).pooler_output
    return seen if project is None else project(seen)
