"""The interface between jsd-guidance and an energy: the views it sees, the number it returns."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from threestudio.utils.base import BaseObject
from torch import Tensor

from ..config_values import parse_fields
from ..priors.latent_prior import LatentPrior


@dataclass
class Views:
    """N objects, V views of each, as an energy sees them during one training step.

    `denoised` and `noisy` carry a graph back to x_t; an energy must be differentiable in
    `denoised`. Everything is on the guidance's device, latents are in the 2D prior's scaled latent
    space. Angles are in degrees except `fovy` (radians); cameras look along −z with z up in the
    world (OpenGL, as threestudio).

    Attributes:
        denoised: x̂0, the 2D prior's one-step estimate of the clean latents.
        latents: x, the encoded renders.
        noisy: x_t.
        noise: ε.
        t: the timestep, one per object.
        prior: the 2D prior: its `schedule`, `encode`, and `decode`, which is differentiable.
        rgb: the renders in [0, 1]; None where the system renders latents.
        opacity: the renders' opacity in [0, 1]; None where the system does not pass it.
        c2w: camera-to-world matrices.
        text_embeddings: of the plain prompt, not the view-dependent one.
        uncond_text_embeddings: of the empty or negative prompt.
        prompt_utils: the prompt processor's output, which knows the `prompt` itself.
        text_embeddings_of_views, uncond_text_embeddings_of_views: those that the 2D prior denoises
            each view with, view-dependent where the guidance is so configured.
    """

    denoised: Float[Tensor, "N V C h w"]
    latents: Float[Tensor, "N V C h w"]
    noisy: Float[Tensor, "N V C h w"]
    noise: Float[Tensor, "N V C h w"]
    t: Int[Tensor, " N"]
    prior: LatentPrior
    rgb: Float[Tensor, "N V H W 3"] | None
    opacity: Float[Tensor, "N V H W 1"] | None
    c2w: Float[Tensor, "N V 4 4"]
    elevation: Float[Tensor, "N V"]
    azimuth: Float[Tensor, "N V"]
    camera_distances: Float[Tensor, "N V"]
    fovy: Float[Tensor, "N V"] | None
    text_embeddings: Float[Tensor, "N L D"]
    uncond_text_embeddings: Float[Tensor, "N L D"]
    text_embeddings_of_views: Float[Tensor, "N V L D"]
    uncond_text_embeddings_of_views: Float[Tensor, "N V L D"]
    prompt_utils: Any = None

    @property
    def n_object(self) -> int:
        return self.denoised.shape[0]

    @property
    def n_view(self) -> int:
        return self.denoised.shape[1]

    def pictures(self) -> Float[Tensor, "N V H W 3"]:
        """The renders; where the system renders latents, what those decode to, without a graph."""
        if self.rgb is not None:
            return self.rgb
        with torch.no_grad():
            return as_pictures(self.latents, self.prior)

    def texts(
        self, view_dependent: bool = False, encoder: str | None = None
    ) -> tuple[Float[Tensor, "N V L D"], Float[Tensor, "N V L D"]]:
        """The embeddings of the prompt and of the empty or negative one, for every view.

        Args:
            view_dependent: with "front view" and the like, where the guidance is so configured.
            encoder: the folder or hub name of another text encoder than the 2D prior's.

        Raises:
            ValueError: the prompt processor cannot ask another text encoder.
        """
        if encoder is None and view_dependent:
            return self.text_embeddings_of_views, self.uncond_text_embeddings_of_views
        known = self
        if encoder is not None:
            if not hasattr(self.prompt_utils, "encoded_by"):
                raise ValueError(
                    f"energy.text_encoder_name_or_path={encoder!r} needs "
                    "system.prompt_processor_type=jointdreamer-prompt-processor."
                )
            known = self.prompt_utils.encoded_by(encoder)
        if view_dependent:
            cameras = (self.elevation, self.azimuth, self.camera_distances)
            both = known.get_text_embeddings(*(x.flatten() for x in cameras), True)
            text, uncond = both.unflatten(0, (2, self.n_object, self.n_view))
            return text, uncond
        plain = known.text_embeddings, known.uncond_text_embeddings
        text, uncond = (x[:, None].expand(self.n_object, self.n_view, -1, -1) for x in plain)
        return text, uncond


class Energy(BaseObject):
    """C(x̂0^1..V, c^1..V): how well the views of an object fit together; larger fits better.

    An energy of your own is a subclass with `__call__`, registered and named in the config:

        >>> @threestudio.register("my-energy")
        ... class MyEnergy(Energy):
        ...     def __call__(self, views):
        ...         mean = views.denoised.mean(dim=1, keepdim=True)
        ...         return -(views.denoised - mean).square().sum(dim=(1, 2, 3, 4))
    """

    @dataclass
    class Config(BaseObject.Config):
        def __post_init__(self) -> None:
            parse_fields(self, "energy")

    cfg: Config
    takes_image = False  # whether it looks at system.prompt_processor.image

    @property
    def priors(self) -> list[LatentPrior]:
        """Its own, whose UNets need not be on the GPU between its calls."""
        return []

    def __call__(self, views: Views) -> Float[Tensor, " N"]:
        """One C per object, differentiable in `views.denoised`."""
        raise NotImplementedError

    def predict(self, views: Views) -> Float[Tensor, "N V C h w"] | None:
        """The latents that this energy would like the views to have, if any."""
        return None

    def draw(self, views: Views) -> Float[Tensor, "N V H W 3"] | None:
        """What this energy would like the views to look like, in [0, 1], if it can tell."""
        wanted = self.predict(views)
        return None if wanted is None else as_pictures(wanted, views.prior)

    def evaluate(self, views: Views) -> Float[Tensor, " N"]:
        """C of `views`, checked for what is easily got wrong in an energy of one's own.

        Raises:
            ValueError: it is not one number per object, or has no gradient.
        """
        C, name = self(views), type(self).__name__
        if not isinstance(C, Tensor) or C.shape != (views.n_object,):
            shape = tuple(C.shape) if isinstance(C, Tensor) else type(C).__name__
            raise ValueError(
                f"{name} returned {shape} for {views.n_object} objects: return one energy per "
                f"object, a tensor of shape ({views.n_object},)."
            )
        if not C.requires_grad:
            raise ValueError(
                f"{name} returned an energy without a gradient in views.denoised: compute it from "
                "views.denoised, not detached and not under torch.no_grad()."
            )
        return C


def as_pictures(
    latents: Float[Tensor, "N V C h w"], prior: LatentPrior
) -> Float[Tensor, "N V H W 3"]:
    """Latents as pictures in [0, 1]."""
    rgb = prior.decode(latents.flatten(0, 1)).permute(0, 2, 3, 1)
    return rgb.unflatten(0, latents.shape[:2])
