"""Coherence by an image-to-image model: views should be what it makes of one of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import threestudio
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..diffusion import wonder3d, zero123  # noqa: F401  (makes them known)
from ..diffusion.image_prior import Cameras, ImagePriorOptions, load_image_prior
from ..diffusion.latent_prior import LatentPrior
from ..diffusion.weights.requirements import Requirement, is_half, parts_of, vae_of
from .base import Views
from .reconstruction import KEY, ReconstructionEnergy

REFERENCES = ("first", "frontal", "random")


@threestudio.register("jsd-translation-energy")
class TranslationEnergy(ReconstructionEnergy):
    """C_I2I = −Σ_{i≠ref} ‖M_I2I(x^ref, Δ(c^i, c^ref)) − x̂0^i‖² (JointDreamer, arXiv 2407.12291).

    M_I2I denoises the other views of an object, given the render of one of them and the relative
    cameras, in one call without a graph, at the same t. Wonder3D and Zero-1-to-3 are known, and
    told apart by their own config.json; others can be added (`register_image_prior`).

    Config, beside what `ReconstructionEnergy` says:
        pretrained_model_name_or_path: a folder with unet/, vae/, image_encoder/ and scheduler/
            (and cc_projection/ for Zero-1-to-3), a hub name, or Zero-1-to-3's original file.
        vae_name_or_path: another model whose VAE is used.
        guidance_scale: 3, as both models' authors.
        white_background: the renders are laid on white, by their opacity, before the model sees
            them, since both models were trained on objects before white. x̂0 keeps its own
            background, so leave `mask_with_opacity` on with it.
        reference: which view the others are made from: the `first`; the most `frontal` one, whose
            azimuth is nearest to 0; or a `random` one, drawn per object and step.
        cross_domain: Wonder3D only: predict normals with the colours, see `Wonder3D`.
        azimuth_tolerance, elevation_tolerance: Wonder3D only: degrees that a view may be away
            from its six fixed ones; others are refused.
    """

    @dataclass
    class Config(ReconstructionEnergy.Config):
        guidance_scale: Any = 3.0
        mask_with_opacity: bool = True
        white_background: bool = True
        reference: str = "first"
        cross_domain: bool = False
        azimuth_tolerance: float = 5.0
        elevation_tolerance: float = 15.0

    cfg: Config

    @classmethod
    def required_weights(cls, cfg: Mapping[str, Any], key: str) -> Iterator[Requirement]:
        """What is loaded, for `jointdreamer download` and `doctor`."""
        half = is_half(cfg)
        yield from parts_of(cfg, key, ["unet", "scheduler", "image_encoder"], half)
        yield from parts_of(cfg, key, ["cc_projection"], half, optional=True)
        yield from vae_of(cfg, key, half, own_is_optional=False)

    def _load(self) -> LatentPrior:
        if self.cfg.reference not in REFERENCES:
            raise ValueError(
                f"energy.reference={self.cfg.reference!r}: use one of {', '.join(REFERENCES)}."
            )
        for name in ("azimuth_tolerance", "elevation_tolerance"):
            if self.cfg[name] < 0:
                raise ValueError(f"energy.{name}={self.cfg[name]} must not be below 0 degrees.")
        self.image_prior = load_image_prior(
            self.cfg.pretrained_model_name_or_path,
            self.device,
            self.cfg.half_precision_weights,
            self.cfg.vae_name_or_path,
            KEY,
            ImagePriorOptions(
                cross_domain=self.cfg.cross_domain,
                azimuth_tolerance=self.cfg.azimuth_tolerance,
                elevation_tolerance=self.cfg.elevation_tolerance,
            ),
        )
        return self.image_prior.prior

    @torch.no_grad()
    def predict(self, views: Views) -> Float[Tensor, "N V C h w"]:
        """M_I2I, at the size of `views.denoised`; at the reference view x̂0 as it is."""
        if views.rgb is None:
            raise ValueError(
                "jsd-translation-energy looks at a render, but with rgb_as_latents there are "
                "none: let the system render colours, or use another energy_type."
            )
        if views.n_view < 2:
            raise ValueError(
                "jsd-translation-energy predicts views from another one, but "
                "system.guidance.n_view=1: use 2 or more views per object."
            )
        self._fit(views)
        if self.cfg.white_background:
            views = self._before_white(views)
        # predicted views of each object [N K]: the reference first, where it is one of them
        reference = self._choose(views)
        first = 0 if self.image_prior.joint else 1
        steps = torch.arange(first, views.n_view, device=reference.device)
        wanted = (reference[:, None] + steps) % views.n_view

        of_object = torch.arange(views.n_object, device=reference.device)
        rgb = views.rgb[of_object, reference].permute(0, 3, 1, 2)
        poses = torch.stack([views.elevation, views.azimuth, views.camera_distances], dim=-1)
        rows = of_object[:, None]
        x_t = self._noisy(views)[rows, wanted]
        eps = self.image_prior.predict_noise(
            x_t,
            views.t,
            self.image_prior.look_at(rgb),
            Cameras(poses[rows, wanted], poses[rows, reference[:, None]]),
            guided=self.guidance_scale != 1,
        )
        x0 = views.denoised.detach().clone()
        predicted = self._reconstruct(x_t, views.t, *eps, x0.shape[-1])
        x0[rows, wanted[:, 1 - first :]] = predicted[:, 1 - first :]
        return x0

    def _before_white(self, views: Views) -> Views:
        if views.opacity is None:
            raise ValueError(
                "energy.white_background=true, but the system does not pass opacity=[B H W 1] to "
                "the guidance: pass it, or give the scene a white background and set "
                "energy.white_background=false."
            )
        return replace(views, rgb=views.rgb * views.opacity + 1 - views.opacity)

    def _choose(self, views: Views) -> Int[Tensor, " N"]:
        """Which view of each object is the reference."""
        shape, device = (views.n_object,), views.azimuth.device
        if self.cfg.reference == "first":
            return torch.zeros(shape, dtype=torch.long, device=device)
        if self.cfg.reference == "random":
            return torch.randint(views.n_view, shape, device=device)
        azimuth = views.azimuth % 360
        return torch.minimum(azimuth, 360 - azimuth).argmin(dim=1)
