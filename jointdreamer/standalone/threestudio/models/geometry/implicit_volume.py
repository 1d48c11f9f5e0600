"""A density and a feature field: a positional encoding read by small MLPs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models import fused_field
from threestudio.models.geometry.base import BaseImplicitGeometry, Threshold
from threestudio.models.networks import ENCODINGS, NETWORKS, get_encoding, get_mlp
from threestudio.utils.ops import check_activation, get_activation, scale_tensor

_BLOBS = ("blob_magic3d", "blob_dreamfusion")
_NORMAL_TYPES = ("analytic", "finite_difference", "finite_difference_laplacian", "pred")


def _check_bias(value: float | str, key: str) -> None:
    if isinstance(value, str) and value not in _BLOBS:
        raise ValueError(f"{key}={value!r} is unknown: use {', '.join(_BLOBS)} or a number.")


@threestudio.register("implicit-volume")
class ImplicitVolume(BaseImplicitGeometry):
    """NeRF-like volume with a spherical density bias that starts it as a blob.

    `density_bias`: a number added before the activation, or "blob_magic3d",
    s (1 - |x| / d), or "blob_dreamfusion", s exp(-|x|^2 / 2 d^2), with s `density_blob_scale` and d
    `density_blob_std`. `normal_type`: "analytic" (-grad density), "finite_difference" (forward
    differences of `finite_difference_normal_eps`), "finite_difference_laplacian" (central ones), or
    "pred" (a network of its own); all are normalised. `n_feature_dims` 0 leaves the features out.
    """

    @dataclass
    class Config(BaseImplicitGeometry.Config):
        n_input_dims: Annotated[int, (3,)] = 3
        n_feature_dims: Annotated[int, "[0, inf)"] = 3
        density_activation: Annotated[str | None, check_activation] = "softplus"
        density_bias: Annotated[Any, float | str, _check_bias] = "blob_magic3d"
        density_blob_scale: float = 10.0
        density_blob_std: Annotated[float, "(0, inf)"] = 0.5
        pos_encoding_config: Annotated[dict, ENCODINGS] = field(
            default_factory=lambda: {
                "otype": "HashGrid",
                "n_levels": 16,
                "n_features_per_level": 2,
                "log2_hashmap_size": 19,
                "base_resolution": 16,
                "per_level_scale": 1.447269237440378,
            }
        )
        mlp_network_config: Annotated[dict, NETWORKS] = field(
            default_factory=lambda: {
                "otype": "VanillaMLP",
                "activation": "ReLU",
                "output_activation": "none",
                "n_neurons": 64,
                "n_hidden_layers": 1,
            }
        )
        normal_type: Annotated[str | None, _NORMAL_TYPES] = "finite_difference"
        finite_difference_normal_eps: Annotated[float, "(0, inf)"] = 0.01

        isosurface_threshold: Threshold = 25.0

    cfg: Config

    def configure(self) -> None:
        super().configure()
        network = self.cfg.mlp_network_config
        self.encoding = get_encoding(self.cfg.n_input_dims, self.cfg.pos_encoding_config)
        n_encoded = self.encoding.n_output_dims
        self.density_network = get_mlp(n_encoded, 1, network)
        if self.cfg.n_feature_dims > 0:
            self.feature_network = get_mlp(n_encoded, self.cfg.n_feature_dims, network)
        if self.cfg.normal_type == "pred":
            self.normal_network = get_mlp(n_encoded, 3, network)

    def get_activated_density(
        self, points: Float[Tensor, "*N Di"], density: Float[Tensor, "*N 1"]
    ) -> tuple[Float[Tensor, "*N 1"], Float[Tensor, "*N 1"]]:
        """The network's output with the bias added, before and after the activation."""
        bias, scale, std = (
            self.cfg.density_bias,
            self.cfg.density_blob_scale,
            self.cfg.density_blob_std,
        )
        if bias == "blob_dreamfusion":
            squared = (points**2).sum(dim=-1, keepdim=True)
            raw = density + scale * torch.exp(-0.5 * squared / std**2)
        elif bias == "blob_magic3d":
            raw = density + scale * (1 - points.norm(dim=-1, keepdim=True) / std)
        else:
            raw = density + bias
        return raw, get_activation(self.cfg.density_activation)(raw)

    def forward(
        self, points: Float[Tensor, "*N Di"], output_normal: bool = False
    ) -> dict[str, Float[Tensor, "..."]]:
        """Evaluate the fields at world points.

        Returns:
            "density" [*N 1], "features" [*N Nf], and with `output_normal` "normal" and
            "shading_normal" [*N 3], pointing outwards.
        """
        with_gradient = torch.is_grad_enabled()
        analytic = output_normal and self.cfg.normal_type == "analytic"
        by_parts = analytic and self.encoding.has_input_gradient and not points.requires_grad
        if by_parts and self._can_be_fused():
            return self._forward_fused(points)
        with torch.set_grad_enabled(with_gradient or analytic):
            if analytic and not by_parts and not points.requires_grad:
                points = points.detach().requires_grad_(True)
            enc = self._encode(points)
            if by_parts and not enc.requires_grad:
                enc.requires_grad_()
            raw = self._network(self.density_network, enc, points)
            _, density = self.get_activated_density(points, raw)
            output = {"density": density}
            if self.cfg.n_feature_dims > 0:
                with torch.set_grad_enabled(with_gradient):
                    output["features"] = self._network(self.feature_network, enc, points)
            if output_normal:
                if by_parts:
                    normal = -self._gradient_by_parts(points, enc, raw, density, with_gradient)
                else:
                    normal = self._normal(points, enc, density)
                normal = F.normalize(normal, dim=-1)
                output["normal"] = output["shading_normal"] = normal
        if with_gradient:
            return output
        return {name: value.detach() for name, value in output.items()}

    def forward_density(self, points: Float[Tensor, "*N Di"]) -> Float[Tensor, "*N 1"]:
        """The density alone."""
        enc = self._encode(points)
        if not torch.is_grad_enabled() and self._can_be_fused():
            density = fused_field.fused_density(enc, self.density_network.two_layers)
            density = density.view(*points.shape[:-1], 1)
        else:
            density = self._network(self.density_network, enc, points)
        return self.get_activated_density(points, density)[1]

    def export(self, points: Float[Tensor, "*N Di"], **kwargs: Any) -> dict[str, Any]:
        if self.cfg.n_feature_dims == 0:
            return {}
        return {"features": self._network(self.feature_network, self._encode(points), points)}

    def _encode(self, points: Float[Tensor, "*N Di"]) -> Float[Tensor, "M Ne"]:
        unit = scale_tensor(points, self.bbox, (0, 1))
        return self.encoding(unit.reshape(-1, self.cfg.n_input_dims))

    def _network(
        self, network: Callable[[Tensor], Tensor], enc: Tensor, points: Tensor
    ) -> Float[Tensor, "*N D"]:
        out = network(enc)
        return out.view(*points.shape[:-1], out.shape[-1])

    def _can_be_fused(self) -> bool:
        """Whether `fused_field` serves the networks."""
        if self.cfg.n_feature_dims == 0:
            return False
        networks = self.density_network.two_layers, self.feature_network.two_layers
        return None not in networks and fused_field.kernels_work(networks[0][0])

    def _forward_fused(self, points: Float[Tensor, "*N 3"]) -> dict[str, Float[Tensor, "..."]]:
        """What `forward` returns, with analytic normals."""
        enc = self._encode(points)
        networks = self.density_network.two_layers, self.feature_network.two_layers
        raw, features, slope = fused_field.fused_field(enc, *networks)
        raw, features = (x.view(*points.shape[:-1], -1) for x in (raw, features))
        _, density = self.get_activated_density(points, raw)
        with torch.enable_grad():  # a factor, by which the unit normal does not change
            at = raw.detach().requires_grad_()
            _, activated = self.get_activated_density(points.detach(), at)
            (in_raw,) = torch.autograd.grad(activated.sum(), at)
        normal = F.normalize(-self._gradient(points, enc, slope, 1.0) * in_raw, dim=-1)
        both = {"normal": normal, "shading_normal": normal}
        return {"density": density, "features": features, **both}

    def _gradient_by_parts(
        self,
        points: Float[Tensor, "*N 3"],
        enc: Tensor,
        raw: Tensor,
        density: Tensor,
        with_gradient: bool,
    ) -> Float[Tensor, "*N 3"]:
        """The density's gradient, by the chain rule through the encoding and through the bias.

        Autograd would find the same from points that require a gradient, and with it, unused, the
        encoding's gradient in its parameters on the way and in the points on the way back.
        """
        in_enc, in_raw = torch.autograd.grad(density.sum(), [enc, raw], create_graph=with_gradient)
        return self._gradient(points, enc, in_enc, in_raw)

    def _gradient(
        self,
        points: Float[Tensor, "*N 3"],
        enc: Float[Tensor, "M Ne"],
        in_enc: Float[Tensor, "M Ne"],
        in_raw: Float[Tensor, "*N 1"] | float,
    ) -> Float[Tensor, "*N 3"]:
        """From a gradient in the encoding and in the density before its activation."""
        unit = scale_tensor(points, self.bbox, (0, 1)).reshape(-1, self.cfg.n_input_dims)
        gradient = self.encoding.input_gradient(unit, in_enc, enc).view(points.shape)
        gradient = gradient / (self.bbox[1] - self.bbox[0])
        with torch.enable_grad():
            x = points.detach().requires_grad_(True)
            biased, _ = self.get_activated_density(x, torch.zeros_like(x[..., :1]))
            if not biased.requires_grad:  # the same everywhere
                return gradient
            (of_bias,) = torch.autograd.grad(biased.sum(), x)
        return gradient + in_raw * of_bias

    def _normal(
        self, points: Float[Tensor, "*N 3"], enc: Tensor, density: Float[Tensor, "*N 1"]
    ) -> Float[Tensor, "*N 3"]:
        """Minus the density's gradient, up to a positive factor."""
        normal_type = self.cfg.normal_type
        if normal_type == "pred":
            return self._network(self.normal_network, enc, points)
        if normal_type == "analytic":
            (gradient,) = torch.autograd.grad(density.sum(), points, create_graph=True)
            return -gradient
        if normal_type is None:
            raise ValueError(
                "Normals are asked for, but geometry.normal_type is null: use one of "
                f"{', '.join(_NORMAL_TYPES)}."
            )
        eps = self.cfg.finite_difference_normal_eps
        steps = eps * torch.eye(3, dtype=points.dtype, device=points.device)

        def density_beside(offsets: Float[Tensor, "3 3"]) -> Float[Tensor, "*N 3"]:
            beside = (points[..., None, :] + offsets).clamp(-self.cfg.radius, self.cfg.radius)
            return self.forward_density(beside)[..., 0]

        if normal_type == "finite_difference":
            return (density - density_beside(steps)) / eps
        return 0.5 * (density_beside(-steps) - density_beside(steps)) / eps
