"""A scene of two volumes, each at its place, and each with a prompt of its own beside the scene's.

As in compositional text-to-3D (CompoNeRF, arXiv 2303.13843; Set-the-Scene, arXiv 2303.13450) steps
take turns: one distils the render of all for the whole prompt, the next ones each volume's own
render, from cameras about it, for its part of the prompt, by the priors of single creatures.
"""

from typing import Any

import threestudio
import torch
from jaxtyping import Float
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.geometry.implicit_volume import ImplicitVolume
from threestudio_jointdreamer.guidance.jsd_guidance import JSDGuidance
from threestudio_jointdreamer.systems.jointdreamer import JointDreamer
from torch import Tensor, nn

from jointdreamer.tinyworld.scenes import PLACES, SCALE, parts_of


@threestudio.register("composed-volume")
class ComposedVolume(BaseImplicitGeometry):
    """An implicit volume at each of `PLACES`, of which a unit is `SCALE` of the world's.

    Their densities add up; features are weighted by density. Each gets the config.
    """

    Config = ImplicitVolume.Config

    def configure(self) -> None:
        super().configure()
        self.volumes = nn.ModuleList(ImplicitVolume(self.cfg) for _ in PLACES)
        self.register_buffer("places", torch.tensor(PLACES), persistent=False)
        for name in ("encoding", "density_network", "feature_network"):  # the optimizer's groups
            setattr(self, name, nn.ModuleList(getattr(one, name) for one in self.volumes))

    def forward(self, points: Float[Tensor, "*N 3"], output_normal: bool = False) -> dict[str, Any]:
        """As ImplicitVolume's, without normals."""
        found, radius = [], self.cfg.radius
        for volume, place in zip(self.volumes, self.places, strict=True):
            local = (points - place) / SCALE
            inside = local.abs().amax(dim=-1, keepdim=True) <= radius
            out = volume(local.clamp(-radius, radius))
            found.append((inside * out["density"] / SCALE, out["features"]))  # a unit's is less
        density = sum(each for each, _ in found)
        features = sum(each * features for each, features in found) / density.clamp_min(1e-6)
        return {"density": density, "features": features}

    def forward_density(self, points: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 1"]:
        return self(points)["density"]


@threestudio.register("composed-guidance")
class ComposedGuidance(JSDGuidance):
    """`jsd-guidance`, which leaves its LoRAs and their size of latents out in a volume's turn."""

    def configure(self) -> None:
        super().configure()
        plain = dict.fromkeys(("lora_name_or_path", "latent_size"))
        energy = {key: plain.get(key, value) for key, value in self.cfg.energy.items()}
        self.alone = JSDGuidance({**self.cfg, **plain, "energy": energy})
        self.alone.schedules = self.schedules  # both are told when the shape has settled

    def distil(self, *args: Any, **options: Any) -> Any:
        return (self.alone if self._step % 3 else super()).distil(*args, **options)


@threestudio.register("composed-system")
class ComposedSystem(JointDreamer):
    """`jointdreamer-system` on a `composed-volume`."""

    def configure(self) -> None:
        super().configure()
        renderer, rest = threestudio.find(self.cfg.renderer_type), (self.material, self.background)
        parts = (renderer(self.cfg.renderer, one, *rest) for one in self.geometry.volumes)
        self.first, self.second = parts  # attributes, so that their grids follow the training

    def on_fit_start(self) -> None:
        super().on_fit_start()
        prompts, make = self.cfg.prompt_processor, threestudio.find(self.cfg.prompt_processor_type)
        parts = (make({**prompts, "prompt": part}) for part in parts_of(prompts["prompt"]))
        processors = self.prompt_processor, *parts
        self.prompt_processor = lambda: processors[self._turn()]()

    def _turn(self) -> int:
        return self.true_global_step % 3 if self.training else 0

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return (self.renderer, self.first, self.second)[self._turn()](**batch)
