"""`diffuse-with-point-light-material`: DreamFusion's shading, at random plain or textureless."""

import random
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.materials.base import BaseMaterial
from threestudio.utils.ops import check_activation, dot, get_activation

SHADINGS = ("albedo", "textureless", "diffuse")


@threestudio.register("diffuse-with-point-light-material")
class DiffuseWithPointLightMaterial(BaseMaterial):
    """A Lambertian surface under ambient light and one point light.

    While training each call picks one shading for all its points: the albedo alone (always, in
    the first `ambient_only_steps`), a white surface that shows the shape only, or both together.
    """

    @dataclass
    class Config(BaseMaterial.Config):
        ambient_light_color: Annotated[tuple[float, float, float], "[0, inf)"] = (0.1, 0.1, 0.1)
        diffuse_light_color: Annotated[tuple[float, float, float], "[0, inf)"] = (0.9, 0.9, 0.9)
        ambient_only_steps: Annotated[int, "[0, inf)"] = 1000
        diffuse_prob: Annotated[float, "[0, 1]"] = 0.75  # of any shading at all
        textureless_prob: Annotated[float, "[0, 1]"] = 0.5  # of these, without texture
        albedo_activation: Annotated[str, check_activation] = "sigmoid"
        soft_shading: bool = False  # a random mix of ambient and diffuse light in each step
        ambient_only_on_test: bool = False

    cfg: Config
    ambient_light_color: Float[Tensor, "3"]
    diffuse_light_color: Float[Tensor, "3"]

    def configure(self) -> None:
        self.requires_normal = True
        for name in ("ambient_light_color", "diffuse_light_color"):
            self.register_buffer(name, torch.tensor([float(x) for x in self.cfg[name]]))
        self.ambient_only = False

    def forward(
        self,
        features: Float[Tensor, "B *N Nf"],
        positions: Float[Tensor, "B *N 3"],
        shading_normal: Float[Tensor, "B *N 3"],
        light_positions: Float[Tensor, "B *N 3"],
        ambient_ratio: float | None = None,
        shading: str | None = None,
        **kwargs,
    ) -> Float[Tensor, "B *N 3"]:
        """Colours of points.

        Args:
            features: the first three are the albedo before its activation.
            positions: of the points; `light_positions` of the light, one for each point.
            shading_normal: unit vectors.
            ambient_ratio: share of ambient light, 0 to 1; None leaves it to the config.
            shading: "albedo", "textureless" or "diffuse"; None leaves it to chance or the config.

        Raises:
            ValueError: for another `shading`.
        """
        albedo = get_activation(self.cfg.albedo_activation)(features[..., :3])
        ambient, diffuse = self._light(ambient_ratio)
        towards_light = F.normalize(light_positions - positions, dim=-1)
        white = dot(shading_normal, towards_light).clamp(min=0.0) * diffuse + ambient
        shading = self._pick_shading() if shading is None else shading
        # terms times 0: distributed training wants every parameter to be used in every step
        if shading == "albedo":
            return albedo + white * 0
        if shading == "textureless":
            return albedo * 0 + white
        if shading == "diffuse":
            return albedo.clamp(0.0, 1.0) * white
        raise ValueError(f"shading={shading!r} is unknown: use one of {', '.join(SHADINGS)}.")

    def _light(self, ambient_ratio: float | None) -> tuple[Tensor, Tensor]:
        """Colours of ambient and point light."""
        if ambient_ratio is not None:
            ambient = torch.full_like(self.ambient_light_color, ambient_ratio)
            return ambient, torch.full_like(self.diffuse_light_color, 1 - ambient_ratio)
        if self.training and self.cfg.soft_shading:
            diffuse = torch.full_like(self.diffuse_light_color, random.random())
            return 1.0 - diffuse, diffuse
        return self.ambient_light_color, self.diffuse_light_color

    def _pick_shading(self) -> str:
        if not self.training:
            plain = self.ambient_only or self.cfg.ambient_only_on_test
            return "albedo" if plain else "diffuse"
        if self.ambient_only or random.random() > self.cfg.diffuse_prob:
            return "albedo"
        return "textureless" if random.random() < self.cfg.textureless_prob else "diffuse"

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.ambient_only = global_step < self.cfg.ambient_only_steps

    def export(self, features: Float[Tensor, "*N Nf"], **kwargs) -> dict[str, Any]:
        """`albedo` in 0..1."""
        albedo = get_activation(self.cfg.albedo_activation)(features[..., :3])
        return {"albedo": albedo.clamp(0.0, 1.0)}
