"""LDM's layout of checkpoints: which weights belong to which part, by how their names begin."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ...state_dicts import some
from . import clip as openai_clip
from . import dino, mv_adapter
from .schedule import BUFFERS

EMA, TEXT, LOSSES, SCHEDULE = "ema", "text encoder", "training losses", "schedule"
COUNTERS = "counters of the averages"
# To which section a name belongs: the first prefix that fits, most special first.
WHOLE = {
    "model.diffusion_model.": "unet",
    "model_ema.decay": COUNTERS,
    "model_ema.num_updates": COUNTERS,
    "model_ema.": EMA,
    "first_stage_model.loss.": LOSSES,
    "first_stage_model.": "vae",
    openai_clip.PREFIX: "image_encoder",
    "cond_stage_model.": TEXT,
    "vae_model.": "vae",  # by ImageDream's names
    "clip_model.model.visual.": "image_encoder",
    "clip_model.": TEXT,
    "cc_projection.": "cc_projection",
}
WRAPPED_UNET, BARE_UNET = {"unet.": "unet"}, {"": "unet"}
BARE_VAE = {"model_ema.": LOSSES, "loss.": LOSSES, "": "vae"}
LAYOUTS = {  # told apart by one weight
    "model.diffusion_model.input_blocks.0.0.weight": WHOLE,
    "unet.input_blocks.0.0.weight": WRAPPED_UNET,
    "input_blocks.0.0.weight": BARE_UNET,
    "first_stage_model.encoder.conv_in.weight": WHOLE,
    "encoder.mid.block_1.conv1.weight": BARE_VAE,
}

Sections = dict[str, dict[str, Tensor]]


def sections_of(weights: Mapping[str, Tensor], source: Path) -> Sections:
    """A file's weights by the section that they belong to, without prefixes.

    DINO's are one section without a name, MV-Adapter's one section.

    Raises:
        ValueError: it is in no known layout, or some weights belong to no section.
    """
    if dino.is_original(weights):
        return {"": dict(weights)}
    if mv_adapter.is_mv_adapter(weights):
        return {"mv_adapter": dict(weights)}
    layout = next((layout for name, layout in LAYOUTS.items() if name in weights), None)
    if layout is None:
        raise ValueError(
            f"{source} is no checkpoint of Stable Diffusion 1 or 2, MVDream, ImageDream, "
            f"Zero-1-to-3, DINO or MV-Adapter: it holds {some(weights, 3)}. Of a model in "
            "diffusers layout, give the folder that holds unet/."
        )
    sections: Sections = {}
    unknown = []
    for name, tensor in weights.items():
        if name.startswith(BUFFERS):
            sections.setdefault(SCHEDULE, {})[name] = tensor
            continue
        prefix = next((prefix for prefix in layout if name.startswith(prefix)), None)
        if prefix is None:
            unknown.append(name)
        else:
            sections.setdefault(layout[prefix], {})[name.removeprefix(prefix)] = tensor
    if "image_encoder" in sections:  # beside which CLIP's text half is, and nothing else
        text = sections.get(TEXT, {})
        beside = [name for name in text if not name.startswith(openai_clip.TEXT_HALF)]
        prefixes = [prefix for prefix, section in layout.items() if section == TEXT]
        unknown += [p + name for name in beside for p in prefixes if p + name in weights]
    if unknown:
        raise ValueError(
            f"{source} is a checkpoint in LDM's layout, but holds more: unknown {some(unknown)}. "
            "It is another model, which cannot be used here."
        )
    return sections


def take_averages(sections: Sections, source: Path) -> Sections:
    """The sections with the exponential moving averages of the UNet's weights as its weights.

    Raises:
        ValueError: the averages are not those of the UNet's weights.
    """
    averages = sections[EMA]
    # LDM stores them under names without dots
    names = {name: f"diffusion_model{name.replace('.', '')}" for name in sections.get("unet", {})}
    without = [name for name, average in names.items() if average not in averages]
    surplus = averages.keys() - set(names.values())
    if without or surplus:
        raise ValueError(
            f"{source}: its averaged weights (model_ema.*) are not those of its UNet: missing for "
            f"{some(without) or 'none'}; unknown {some(surplus) or 'none'}. Download it again."
        )
    return sections | {"unet": {name: averages[average] for name, average in names.items()}}
