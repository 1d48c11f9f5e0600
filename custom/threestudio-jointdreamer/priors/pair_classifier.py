"""The pair classifier: are two images views of one object, seen from these two cameras?

A folder of it holds `head/` (config.json and safetensors, a diffusers model) and `backbone/` (a
DINO in transformers' layout), or the head alone, whose config then names the published DINO that it
was trained on.

JointDreamer's authors published no weights, and we do not read their format: their logit is a
cosine, so that no probability leaves 27 to 73 %, and their camera input is no relative pose.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from transformers import ViTModel

from ..files import replacing_folder
from .dino import IMAGE_MEAN, IMAGE_STD, cls_features, load_dino
from .latent_prior import resize
from .loading import KEY, load_model, precision
from .multiview import CAMERA_DIM, camera_condition


class PairHead(ModelMixin, ConfigMixin):
    """From the features of two views and their relative camera to one logit.

    Both views' features and their squared difference are projected together (without the latter,
    whether two objects are alike is learnt much more slowly); the camera then modulates every
    residual block by a scale and a shift, as DiT's conditions do (Peebles and Xie 2023).

    Args:
        feature_dim: width of the backbone's features.
        hidden_dim: width of the head.
        depth: its residual blocks.
        image_size: height and width in pixels of the images at scale 1.
        scales: the features are averaged over the image at these scales, in (0, 1].
        image_mean, image_std: what the backbone's inputs are normalised with.
        backbone: hub name or folder of the unchanged DINO that this head was trained on; None
            where the backbone lies beside the head.
    """

    @register_to_config
    def __init__(
        self,
        feature_dim: int = 384,
        hidden_dim: int = 512,
        depth: int = 2,
        image_size: int = 224,
        scales: Sequence[float] = (1.0, 1 / 2, 1 / 3),
        image_mean: Sequence[float] = IMAGE_MEAN,
        image_std: Sequence[float] = IMAGE_STD,
        backbone: str | None = None,
    ) -> None:
        super().__init__()
        if not scales or not all(0 < scale <= 1 for scale in scales):
            raise ValueError(f"scales={list(scales)}: give at least one, each in (0, 1].")
        self.feature_norm = nn.LayerNorm(feature_dim)
        self.project = nn.Linear(3 * feature_dim, hidden_dim)
        self.camera = nn.Sequential(
            nn.Linear(CAMERA_DIM, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, hidden_dim)
        )
        self.blocks = nn.ModuleList(_ModulatedBlock(hidden_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden_dim)
        self.logit = nn.Linear(hidden_dim, 1)

    def forward(
        self,
        first: Float[Tensor, "B D"],
        second: Float[Tensor, "B D"],
        pose: Float[Tensor, "B 16"],
    ) -> Float[Tensor, " B"]:
        """The logit of "the second view is the first one's object, seen from `pose`"."""
        first, second = self.feature_norm(first), self.feature_norm(second)
        x = self.project(torch.cat([first, second, (first - second).square()], dim=1))
        camera = self.camera(pose)
        for block in self.blocks:
            x = block(x, camera)
        return self.logit(self.norm(x)).squeeze(1)


class _ModulatedBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(
        self, x: Float[Tensor, "B H"], camera: Float[Tensor, "B H"]
    ) -> Float[Tensor, "B H"]:
        scale, shift = self.modulation(camera).chunk(2, dim=1)
        return x + self.mlp(self.norm(x) * (1 + scale) + shift)


class PairClassifier(nn.Module):
    """A DINO backbone that sees each view once, and a head that judges pairs of them.

    The backbone may be in half precision; the head, which is small, is in single precision. Loaded
    backbones are frozen, and may share their weights: copy one (`copy.deepcopy`) to train it too.

    Args:
        backbone: as from `load_dino`, or any after `match_dino`.
        head: as wide as the backbone's features.

    Example:
        >>> dino = load_dino("facebook/dino-vits16", device, torch.float32)
        >>> head = PairHead(backbone="facebook/dino-vits16").to(device)
        >>> classifier = PairClassifier(dino, head)
        >>> logits = classifier(images, others, c2w, others_c2w)
        >>> F.binary_cross_entropy_with_logits(logits, fit_together).backward()
        >>> classifier.save_pretrained("load/pair-classifier")
    """

    def __init__(self, backbone: ViTModel, head: PairHead) -> None:
        super().__init__()
        if backbone.config.hidden_size != head.config.feature_dim:
            raise ValueError(
                f"The head takes features of width {head.config.feature_dim}, but the backbone's "
                f"are {backbone.config.hidden_size} wide: use the backbone it was trained on."
            )
        self.backbone = backbone
        self.head = head

    @property
    def image_size(self) -> int:
        """Height and width, in pixels, that images are resized to."""
        return self.head.config.image_size

    def features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """What the head sees of images in [0, 1] of any size; differentiable, single precision.

        Images are resized to `image_size`, and from there to whole patches at every scale, so that
        nothing of them is cut off.
        """
        config, patch = self.head.config, self.backbone.config.patch_size
        mean, std = (
            images.new_tensor(list(values))[:, None, None]
            for values in (config.image_mean, config.image_std)
        )
        images = resize((images - mean) / std, config.image_size, antialias=True)
        total = 0.0
        for scale in config.scales:
            size = patch * max(1, round(scale * config.image_size / patch))
            seen = cls_features(self.backbone, resize(images, size, antialias=True))
            total = total + seen.to(self.head.dtype)
        return total / len(config.scales)

    def forward(
        self,
        first: Float[Tensor, "B 3 H W"],
        second: Float[Tensor, "B 3 H W"],
        c2w_first: Float[Tensor, "B 4 4"],
        c2w_second: Float[Tensor, "B 4 4"],
    ) -> Float[Tensor, " B"]:
        """Logits for pairs of images in [0, 1] and their camera-to-world matrices."""
        features = self.features(torch.cat([first, second]))
        return self.head(*features.chunk(2), relative_pose(c2w_first, c2w_second))

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Writes head/ and, unless the head names a published backbone, backbone/; all or nothing.

        Raises:
            ValueError: the folder exists and `overwrite` is off.
        """
        with replacing_folder(folder, overwrite) as new:
            self.head.save_pretrained(new / "head")
            if self.head.config.backbone is None:
                self.backbone.save_pretrained(new / "backbone")


def load_pair_classifier(
    name_or_path: str,
    device: torch.device,
    half_precision_weights: bool = True,
    backbone_name_or_path: str | None = None,
    key: str = KEY,
    backbone_key: str = "backbone_name_or_path",
) -> PairClassifier:
    """A frozen pair classifier in eval mode.

    Args:
        name_or_path: a folder or hub repository with head/ and, mostly, backbone/.
        half_precision_weights: the backbone in fp16 on a GPU. The CPU always computes in fp32.
        backbone_name_or_path: a DINO as `load_dino` takes it. By default the one that the head's
            config names, and else backbone/ beside the head.
        key, backbone_key: the config keys to name in errors.

    Raises: as `load_model`; ValueError too if head and backbone do not fit each other.
    """
    head = load_model(PairHead, name_or_path, "head", device, torch.float32, key)
    dtype = precision(device, half_precision_weights)
    named = backbone_name_or_path or head.config.backbone
    if named:
        backbone = load_dino(named, device, dtype, backbone_key)
    else:
        backbone = load_dino(name_or_path, device, dtype, key, subfolder="backbone")
    try:
        return PairClassifier(backbone, head).eval()
    except ValueError as error:
        raise ValueError(f"{key}={name_or_path!r}, {backbone_key}={named!r}: {error}") from error


def relative_pose(
    c2w_first: Float[Tensor, "*B 4 4"], c2w_second: Float[Tensor, "*B 4 4"]
) -> Float[Tensor, "*B 16"]:
    """The second camera in the first one's frame, c_1⁻¹ c_2 with c camera-to-world, row by row.

    Unlike c_1 c_2⁻¹ it stays the same when the world is turned. Both cameras are first moved to
    distance 1 from the origin, where the object is, as MVDream's are: distance and field of view
    say how large the object appears, which the images tell, and not from where it is seen.
    """
    batch = c2w_first.shape[:-2]
    first, second = (
        camera_condition(c2w.reshape(-1, 4, 4)).unflatten(1, (4, 4))
        for c2w in (c2w_first, c2w_second)
    )
    to_first = first[:, :3, :3].mT  # of a rotation the inverse
    pose = second.clone()
    pose[:, :3, :3] = to_first @ second[:, :3, :3]
    pose[:, :3, 3:] = to_first @ (second[:, :3, 3:] - first[:, :3, 3:])
    return pose.reshape(*batch, CAMERA_DIM)
