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
    def require(holds: bool, option: str, value: object, remedy: str) -> None:
        if not holds:
            raise ValueError(f"--{option} {value}: {remedy}")

    least = {"steps": 1, "batch": 2, "n_view": 2, "train_blocks": 0, "image_size": 16, "objects": 2}
    for name, minimum in least.items():
        value, option = getattr(settings, name), {"n_view": "views"}.get(name, name)
        holds = value is None or value >= minimum
        require(holds, option.replace("_", "-"), value, f"give {minimum} or more.")
    require(settings.lr > 0, "lr", settings.lr, "give a number above 0.")
    if settings.in_tinyworld:
        whole = settings.held_out >= 2 and settings.held_out % 1 == 0
        require(whole, "held-out", settings.held_out, "give a number of objects, 2 or more.")
    else:
        share = 0 < settings.held_out < 1
        require(share, "held-out", settings.held_out, "give a share of the objects, as 0.01.")
        require(
            settings.denoise_with is None,
            "denoise-with",
            settings.denoise_with,
            "views are denoised for captions, and a folder has none: leave it out, or give "
            f"--data {TINYWORLD}.",
        )
    require(
        settings.backbone != TINY or settings.image_size == TINY_IMAGE_SIZE,
        "image-size",
        settings.image_size,
        f"the tiny backbone sees {TINY_IMAGE_SIZE} pixels. Give a --backbone, such as "
        "facebook/dino-vits16, for others.",
    )
