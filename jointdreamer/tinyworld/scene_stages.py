"""The scene priors: LoRAs that teach the shipped 2D and multi-view prior pictures of two."""

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import is_peft_available
from threestudio_jointdreamer.files import replacing
from threestudio_jointdreamer.priors.multiview import use_cross_view_attention
from torch import nn

from .diffusion_stages import StableDiffusionStage
from .models import N_VIEW
from .scenes import four_view_scenes, frontal_scenes
from .training import TrainingPlan

RANK = 24  # of every layer's change: 2.9 MB in half precision


class SceneStage(StableDiffusionStage):
    """A LoRA on the stable-diffusion stage's prior, for pictures of two creatures and of one."""

    plan = TrainingPlan(steps=8000, lr=2e-3, warmup=100, weight_decay=0.0, ema=0.998)
    pictures, batch = 40_000, 64
    name, base, seed_offset = "scene-stable-diffusion", "stable-diffusion", 5
    render = staticmethod(frontal_scenes)

    def __init__(self, root: Path, *args: Any, **options: Any) -> None:
        if not is_peft_available():
            raise ValueError('LoRAs need peft: pip install "threestudio-jointdreamer[lora]".')
        self._root = root
        super().__init__(root, *args, **options)

    def build_model(self) -> nn.Module:
        from peft import LoraConfig

        unet = self._load(UNet2DConditionModel, self._root, f"{self.base}/unet", self.base)
        kinds = nn.Linear, nn.Conv2d
        layers = [name for name, module in unet.named_modules() if isinstance(module, kinds)]
        unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers))
        return use_cross_view_attention(unet, N_VIEW) if self.multiview else unet

    def save(self, root: Path) -> dict[str, float]:
        from peft import get_peft_model_state_dict

        model = self.model.to(memory_format=torch.contiguous_format).half()
        weights = get_peft_model_state_dict(model)
        with replacing(root / self.name) as folder:
            StableDiffusionLoraLoaderMixin.save_lora_weights(folder, unet_lora_layers=weights)
        return {}


class SceneMVDreamStage(SceneStage):
    """Likewise on the mvdream stage's, for four views each."""

    pictures, batch = 10_000, 16
    name, base, seed_offset = "scene-mvdream", "mvdream", 6
    render, multiview = staticmethod(four_view_scenes), True
