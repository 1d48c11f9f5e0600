"""A checkpoint in LDM's layout, taken apart: which model it is, and which weights are whose."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..files import read_weights
from ..state_dicts import some
from . import clip as openai_clip
from . import unet as ldm_unet
from .schedule import BUFFERS

MVDREAM, ZERO123 = "MVDream", "Zero-1-to-3"
SD1, SD2, VAE = "Stable Diffusion 1", "Stable Diffusion 2", "autoencoder"
EMA, TEXT, LEFTOVER, SCHEDULE = "ema", "text encoder", "training losses", "schedule"
# To which section a name belongs, by how it begins: the first that fits, most special first.
WHOLE = {
    "model.diffusion_model.": "unet",
    "model_ema.": EMA,
    "first_stage_model.loss.": LEFTOVER,
    "first_stage_model.": "vae",
    openai_clip.PREFIX: "image_encoder",
    "cond_stage_model.": TEXT,
    "cc_projection.": "cc_projection",
}
WRAPPED_UNET, BARE_UNET = {"unet.": "unet"}, {"": "unet"}
BARE_VAE = {"model_ema.": LEFTOVER, "loss.": LEFTOVER, "": "vae"}
LAYOUTS = {  # told apart by one weight
    "model.diffusion_model.input_blocks.0.0.weight": WHOLE,
    "unet.input_blocks.0.0.weight": WRAPPED_UNET,
    "input_blocks.0.0.weight": BARE_UNET,
    "first_stage_model.encoder.conv_in.weight": WHOLE,
    "encoder.mid.block_1.conv1.weight": BARE_VAE,
}
EMA_COUNTERS = ("decay", "num_updates")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's weights by the part that they belong to.

    Attributes:
        source: the file or folder.
        kind: `MVDREAM`, `ZERO123`, `SD1`, `SD2` or `VAE`.
        parts: for each part its weights under LDM's names, without prefixes.
        schedule: LDM's buffers of its noise schedule.
        leftovers: sections that nothing here needs, each with the number of its weights.
        averaged: the UNet's weights are their exponential moving averages.
        num_heads, head_dim: of the UNet's attention, where the source says so.
    """

    source: Path
    kind: str
    parts: Mapping[str, Mapping[str, Tensor]]
    schedule: Mapping[str, Tensor] = field(default_factory=dict)
    leftovers: Mapping[str, int] = field(default_factory=dict)
    averaged: bool = False
    num_heads: int | None = None
    head_dim: int | None = None

    @property
    def described(self) -> str:
        """What it was recognised as, such as `MVDream (Stable Diffusion 2)`."""
        if self.kind != MVDREAM:
            return self.kind
        return f"{MVDREAM} ({SD2 if ldm_unet.projects_linearly(self.parts['unet']) else SD1})"


def open_file(path: Path, ema: bool = True) -> Checkpoint:
    """Reads a checkpoint file, tensors memory-mapped where its format allows it.

    Args:
        ema: take the averaged weights of the UNet where the file has both, as the programs that
            come with these models do.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, is of no known kind, or holds weights of something else.
    """
    return sort_weights(read_weights(path), path, ema)


def sort_weights(weights: Mapping[str, Tensor], path: Path, ema: bool = True) -> Checkpoint:
    """`open_file` of weights that are read already; `path` is for errors."""
    sections = sections_of(weights, path)
    averages = sections.pop(EMA, {})
    leftovers = {name: len(sections.pop(name)) for name in (TEXT, LEFTOVER) if name in sections}
    averages = {name: t for name, t in averages.items() if name not in EMA_COUNTERS}
    if averages and ema:
        sections["unet"] = _averaged(sections.get("unet", {}), averages, path)
    leftovers |= {"plain weights" if ema else "averaged weights": len(averages)} if averages else {}
    schedule = sections.pop(SCHEDULE, {})
    return Checkpoint(
        path, kind_of(sections), sections, schedule, leftovers, averaged=bool(averages) and ema
    )


def sections_of(weights: Mapping[str, Tensor], source: Path) -> dict[str, dict[str, Tensor]]:
    """A file's weights by the section that they belong to, without prefixes.

    Raises:
        ValueError: it is in no known layout, or some weights belong to no section.
    """
    layout = next((layout for name, layout in LAYOUTS.items() if name in weights), None)
    if layout is None:
        raise ValueError(
            f"{source} is no checkpoint in LDM's layout (Stable Diffusion 1 or 2, MVDream or "
            f"Zero-1-to-3): it holds {some(weights, 3)}. Of a model in diffusers layout, give the "
            "folder that holds unet/."
        )
    sections: dict[str, dict[str, Tensor]] = {}
    strangers = []
    for name, tensor in weights.items():
        if name in BUFFERS:
            sections.setdefault(SCHEDULE, {})[name] = tensor
            continue
        prefix = next((prefix for prefix in layout if name.startswith(prefix)), None)
        if prefix is None:
            strangers.append(name)
        else:
            sections.setdefault(layout[prefix], {})[name.removeprefix(prefix)] = tensor
    if "image_encoder" in sections:
        strangers += [f"cond_stage_model.{name}" for name in _not_clip(sections.get(TEXT, {}))]
    if strangers:
        raise ValueError(
            f"{source} looks like {kind_of(sections)}, but holds more: unknown {some(strangers)}. "
            "It is another model, which cannot be used here."
        )
    return sections


def _not_clip(names: Mapping[str, Tensor]) -> list[str]:
    return [name for name in names if not name.startswith(openai_clip.LEFTOVERS)]


def kind_of(parts: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Which model has these parts."""
    unet = parts.get("unet")
    if not unet:
        return VAE if "vae" in parts else ZERO123
    if ldm_unet.has_camera(unet):
        return MVDREAM
    if "cc_projection" in parts:
        return ZERO123
    return SD2 if ldm_unet.projects_linearly(unet) else SD1


def _averaged(
    unet: Mapping[str, Tensor], averages: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """The exponential moving averages by the UNet's names; LDM stores them under dotless ones."""
    names = {name: f"diffusion_model{name.replace('.', '')}" for name in unet}
    without = [name for name, average in names.items() if average not in averages]
    surplus = averages.keys() - set(names.values())
    if without or surplus:
        raise ValueError(
            f"{path}: its averaged weights (model_ema.*) are not those of its UNet: missing for "
            f"{some(without) or 'none'}; unknown {some(surplus) or 'none'}. Download it again."
        )
    return {name: averages[average] for name, average in names.items()}
