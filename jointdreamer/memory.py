"""How much GPU memory a config will need, estimated from measured pieces before anything is loaded.

The constants below are the whole model. They are for fp16 weights and activations; those marked
"measured" were read off an H200 (PyTorch 2.11), the others follow from the layers' sizes.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import threestudio
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError, safe_open
from threestudio_jointdreamer.weights.inventory import Item
from threestudio_jointdreamer.weights.requirements import Block

GIB = 2**30
CONTEXT = 0.6  # GiB: CUDA, cuBLAS and cuDNN
RESERVE = 0.1  # of what is in use, that PyTorch's allocator holds beyond it
GEOMETRY = 0.3  # GiB: a hash grid of 12.6 M numbers, its gradient and Adam's two moments
RAY = 50 / 2**20  # GiB a ray of 512 samples with analytic normals, with its graph; measured
RAY_SAMPLES = 512
PIXEL = 2 / 2**20  # GiB a pixel of nvdiff-rasterizer, if the object fills the picture; not measured
ENCODE_GRAPH = 1.6  # GiB a view of 512x512 in SD's VAE with its graph; measured: 12.7 for 8 views
ENCODE_GRAPH_COMPILED = 1.08  # the same under torch.compile; measured: 8.6 for 8 views
ENCODE = 0.38  # GiB a view of 512x512 without a graph; measured: 0.75 for 8 of 256x256
DECODE_GRAPH = 3.1  # GiB a view of 512x512 through the decoder, with its graph; measured
UNET = 0.064  # GiB a latent of 64x64 without a graph; measured: 1.02 for 16
UNET_GRAPH = 1.6  # GiB a latent of 64x64 with its graph, for energy_gradient: unet
CLASSIFIER = 0.02  # GiB a view of 224x224 in ViT-S/16 at three scales, with its graph; measured
VAE_WIDTH, UNET_WIDTH = 128, 320  # first channels of the models measured
PUBLISHED = {  # parameters of the published models, for those that are not here to be counted
    "unet": 866e6,  # SD 2.1's and MVDream's
    "vae": 84e6,
    "image_encoder": 304e6,  # CLIP ViT-L/14; Wonder3D's and Zero-1-to-3's
    "backbone": 22e6,  # DINO ViT-S/16, also for a model without subfolder
    "": 22e6,
    "head": 3e6,
    "cc_projection": 1e6,
}


@dataclass(frozen=True)
class _Model:
    """The sizes of a latent diffusion model, as far as its files tell; else SD 2.1's."""

    latent_size: int = 64
    downsampling: int = 8
    unet_width: int = UNET_WIDTH
    vae_width: int = VAE_WIDTH

    @property
    def unet_factor(self) -> float:
        """Of the activations, to those of SD 2.1's UNet."""
        return (self.latent_size / 64) ** 2 * self.unet_width / UNET_WIDTH

    def vae_factor(self, pixels: int | None = None) -> float:
        pixels = pixels or self.latent_size * self.downsampling
        return (pixels / 512) ** 2 * self.vae_width / VAE_WIDTH


def estimate(cfg: DictConfig, items: list[Item]) -> dict[str, float]:
    """The GiB that the most demanding stage of a run needs, by what needs them.

    Args:
        cfg: an experiment's config.
        items: its weights, from `take_inventory`.
    """
    weights = sum(_weight_bytes(item) for item in _loaded(items)) / GIB
    stages = [_stage(cfg, items, *stage) for stage in _stages(cfg)]
    largest = max(stages, key=lambda parts: sum(parts.values()))
    parts = {"weights of the priors": weights, "geometry and optimizer": GEOMETRY, **largest}
    reserve = RESERVE * sum(parts.values())
    return {"CUDA": CONTEXT, **parts, "the allocator's reserve": reserve}


def _loaded(items: list[Item]) -> list[Item]:
    return [item for item in items if item.needed.resident and item.needed.part in PUBLISHED]


def _weight_bytes(item: Item) -> float:
    return _parameters(item) * (2 if item.needed.half else 4)


def _parameters(item: Item) -> float:
    """Of a local model from its files' headers, else those of the published one."""
    count = 0
    for file in item.files:
        if file.suffix == ".safetensors" and item.folder is not None:
            try:
                with safe_open(file, framework="pt") as opened:
                    shapes = [opened.get_slice(name).get_shape() for name in opened.keys()]
            except SafetensorError:
                return PUBLISHED[item.needed.part]
            count += sum(math.prod(shape) for shape in shapes)
    return count or PUBLISHED[item.needed.part]


def _stages(cfg: DictConfig) -> list[tuple[int, int]]:
    """Views in a batch and pixels of a view, before and after each resolution milestone."""
    data = Block(_class(cfg.get("data_type")), cfg.get("data"))
    views, heights, widths = (_listed(data.get(name)) for name in ("batch_size", "height", "width"))
    count = max(len(views), len(heights), len(widths))

    def at(values: list[int], stage: int) -> int:
        return values[min(stage, len(values) - 1)]

    return [(at(views, stage), at(heights, stage) * at(widths, stage)) for stage in range(count)]


def _stage(cfg: DictConfig, items: list[Item], views: int, pixels: int) -> dict[str, float]:
    system = cfg.get("system") or {}
    renderer = Block(None, system.get("renderer"))
    samples = renderer.get("num_samples_per_ray") or RAY_SAMPLES
    rasterized = system.get("renderer_type") == "nvdiff-rasterizer"
    ray = PIXEL if rasterized else samples / RAY_SAMPLES * RAY
    guidance = Block(_class(system.get("guidance_type")), system.get("guidance"))
    prior = _sizes(items, "system.guidance.pretrained_model_name_or_path")
    encode = ENCODE_GRAPH_COMPILED if guidance.get("compile") else ENCODE_GRAPH
    unet = UNET_GRAPH if guidance.get("energy_gradient") == "unet" else UNET
    passing = [2 * views * unet * prior.unet_factor]  # freed again before the next one starts
    passing += [
        _energy(name, block, key, items, views, prior) for name, block, key in _energies(guidance)
    ]
    return {
        f"rendering {views} x {pixels} rays": views * pixels * ray,
        f"encoding {views} views": views * encode * prior.vae_factor(),
        "denoising, or an energy": max(passing),
    }


def _energy(
    name: str, block: Block, key: str, items: list[Item], views: int, prior: _Model
) -> float:
    if name == "jsd-classifier-energy":
        size = block.get("decode_latent_size")
        pixels = size * prior.downsampling if size else 224
        at_once = 1 if block.get("gradient_checkpointing") else views
        return at_once * (DECODE_GRAPH * prior.vae_factor(pixels) + CLASSIFIER)
    if name not in ("jsd-multiview-energy", "jsd-translation-energy"):
        return 0.0
    model = _sizes(items, f"{key}.pretrained_model_name_or_path", latent_size=32)
    domains = 2 if block.get("cross_domain") else 1
    encoding = 0 if block.get("noise") == "shared" else views * ENCODE * model.vae_factor()
    return max(encoding, 2 * domains * views * UNET * model.unet_factor)


def _energies(guidance: Block, key: str = "system.guidance") -> Iterator[tuple[str, Block, str]]:
    """Every energy that a guidance or a sum names, with its block and that block's key."""
    name = guidance.get("energy_type")
    if not name:
        return
    block = Block(_class(name), guidance.get("energy"))
    yield name, block, f"{key}.energy"
    for term_name, term in (block.get("energies") or {}).items():
        if OmegaConf.is_dict(term):
            yield from _energies(Block(None, term), f"{key}.energy.energies.{term_name}")


def _sizes(items: list[Item], key: str, latent_size: int = 64) -> _Model:
    configs = {
        item.needed.part: json.loads((item.folder / "config.json").read_text())
        for item in items
        if item.needed.key == key and item.needed.part in ("unet", "vae") and item.folder
    }
    unet, vae = configs.get("unet", {}), configs.get("vae", {})
    channels = vae.get("block_out_channels") or [VAE_WIDTH, 1, 1, 1]
    size = unet.get("sample_size", latent_size)
    return _Model(
        latent_size=size if isinstance(size, int) else max(size),
        downsampling=2 ** (len(channels) - 1),
        unet_width=(unet.get("block_out_channels") or [UNET_WIDTH])[0],
        vae_width=channels[0],
    )


def _class(name: str | None) -> type | None:
    try:
        return threestudio.find(name) if name else None
    except (KeyError, ValueError):
        return None


def _listed(value: Any) -> list[int]:
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [int(number) for number in value] or [1]
    return [int(value or 1)]
