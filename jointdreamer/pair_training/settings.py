"""What a classifier's training depends on: defaults for the tiny world or a folder, and checks."""

from dataclasses import dataclass

from ..tinyworld.models import N_VIEW
from .backbones import DINO_IMAGE_SIZE, TINY, TINY_IMAGE_SIZE

TINYWORLD = "tinyworld"
NO_PRIOR = "none"
DEFAULTS = {"train_blocks": 3, "n_view": N_VIEW, "seed": 0}
TINYWORLD_DEFAULTS = DEFAULTS | {
    "backbone": TINY,
    "objects": 20_000,
    "held_out": 1000,
    "batch": 64,
    "steps": 6000,
    "lr": 5e-4,
    "denoise_with": "load/tiny/stable-diffusion",
}
FOLDER_DEFAULTS = DEFAULTS | {
    "backbone": "facebook/dino-vits16",
    "objects": None,
    "held_out": 0.01,
    "batch": 32,
    "steps": 20_000,
    "lr": 3e-4,
    "denoise_with": None,
}


@dataclass(frozen=True)
class Settings:
    """What the result depends on; to resume a training takes the same."""

    data: str  # `tinyworld`, or a folder as `ViewsFolder` reads it
    backbone: str  # `tiny`, or a DINO as `load_dino` takes it
    train_blocks: int  # of DINO's last blocks, how many learn; the paper's authors train 3 of 12
    image_size: int  # height and width that the classifier sees
    objects: int | None  # how many of the tiny world to render, or at most to take of a folder
    held_out: float  # how many of the tiny world to test with; of a folder, the share
    n_view: int  # views of an object in a batch
    batch: int  # objects in a batch, of each device
    steps: int  # of the optimizer
    lr: float
    seed: int  # of every draw
    denoise_with: str | None  # a 2D prior: shows half of the tiny world's objects denoised

    @property
    def in_tinyworld(self) -> bool:
        return self.data == TINYWORLD


def default_settings(data: str = TINYWORLD, **changes) -> Settings:
    """The tiny world's settings, or those for a folder of objects; `changes` that are None too.

    Raises:
        ValueError: a setting is out of range; names the option.
    """
    defaults = TINYWORLD_DEFAULTS if data == TINYWORLD else FOLDER_DEFAULTS
    chosen = defaults | {name: value for name, value in changes.items() if value is not None}
    if chosen["denoise_with"] == NO_PRIOR:
        chosen["denoise_with"] = None
    is_tiny = chosen["backbone"] == TINY
    chosen.setdefault("image_size", TINY_IMAGE_SIZE if is_tiny else DINO_IMAGE_SIZE)
    settings = Settings(data=data, **chosen)
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    least = {"steps": 1, "batch": 2, "n_view": 2, "train_blocks": 0, "image_size": 16, "objects": 2}
    for name, minimum in least.items():
        value = getattr(settings, name)
        if value is not None and value < minimum:
            raise _refusal(settings, name, f"give {minimum} or more.")
    if not settings.lr > 0:
        raise _refusal(settings, "lr", "give a number above 0.")
    if settings.in_tinyworld and (settings.held_out < 2 or settings.held_out % 1):
        raise _refusal(settings, "held_out", "give a number of objects, 2 or more.")
    if not settings.in_tinyworld and not 0 < settings.held_out < 1:
        raise _refusal(settings, "held_out", "give a share of the objects, as 0.01.")
    if not settings.in_tinyworld and settings.denoise_with:
        remedy = "views are denoised for captions, and a folder has none: leave it out, or give "
        raise _refusal(settings, "denoise_with", f"{remedy}--data {TINYWORLD}.")
    if settings.backbone == TINY and settings.image_size != TINY_IMAGE_SIZE:
        remedy = "Give a --backbone, such as facebook/dino-vits16, for others."
        remedy = f"the tiny backbone sees {TINY_IMAGE_SIZE} pixels. {remedy}"
        raise _refusal(settings, "image_size", remedy)


def _refusal(settings: Settings, name: str, remedy: str) -> ValueError:
    option = "views" if name == "n_view" else name.replace("_", "-")
    return ValueError(f"--{option} {getattr(settings, name)}: {remedy}")
