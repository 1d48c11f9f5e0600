"""Wonder3D (Long et al. 2023, arXiv 2310.15008): six fixed views of an object from one picture."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .fixed_views import places
from .image_prior import Cameras, ImagePrior, Reference, register_image_prior, with_nothing
from .latent_prior import resize
from .multiview import use_cross_view_attention
from .wonder3d_unet import PUBLISHED_CLASS, Wonder3DUNet

# What the model is told of its six views, which stand around the reference's own up axis: radians
# by which the polar angle and the azimuth differ from the reference's, measured around an axis that
# leans by 15 degrees, in the precision of its training.
EMBEDDED_ANGLES = (
    (0.0000, 0.0000),
    (-0.2362, 0.8125),
    (-0.1686, 1.6934),
    (0.5220, 3.1406),
    (0.6904, 4.8359),
    (0.3733, 5.5859),
)
NORMALS, COLOURS = (1.0, 0.0), (0.0, 1.0)


@register_image_prior
class Wonder3D(ImagePrior):
    """Predicts the views of an object together, colours alone or colours with normals.

    Colours alone is what the first of its two training stages taught it; the second one trained
    the cross-domain attention only. With `cross_domain` the normals, which no render gives, are
    first imagined from noise in one step, then noised to t and predicted with the colours; that
    takes 5 pictures through the UNet where colours alone take 2.

    Of its six views those are predicted that there are; attention runs over these. It was trained
    on orthographic pictures at one height with the object, on white, black or grey.
    """

    kind = "wonder3d"
    joint = True
    crosses_domains = True
    unet_class = Wonder3DUNet

    def __init__(self, prior, image_encoder, options) -> None:
        super().__init__(prior, image_encoder, options)
        self._has_joint_attention = prior.unet.config.cd_attention_mid
        if options.cross_domain and not self._has_joint_attention:
            raise ValueError(
                "energy.cross_domain=true, but this Wonder3D model's config.json has "
                "cd_attention_mid=false: set energy.cross_domain=false."
            )
        angles = torch.tensor(EMBEDDED_ANGLES, dtype=torch.float16, device=prior.device)
        self._angles: Float[Tensor, "6 2"] = angles.float()
        self._n_view: int | None = None

    @staticmethod
    def recognises(unet_config: dict[str, Any]) -> bool:
        return unet_config.get("_class_name") in (PUBLISHED_CLASS, Wonder3DUNet.__name__)

    def look_at(self, rgb: Float[Tensor, "N 3 H W"]) -> Reference:
        pixels = resize(rgb, self.prior.image_size)
        embedding = self._embed(pixels, align_corners=False, antialias=True)
        return Reference(embedding, self._mode(pixels) * self.prior.vae.config.scaling_factor)

    def predict_noise(self, x_t, t, reference, cameras, guided):
        angles = self._angles[self.places(cameras)].flatten(0, 1)
        n_view = x_t.shape[1]
        if n_view != self._n_view:
            use_cross_view_attention(self.prior.unet, n_view)
            self._n_view = n_view
        views, t = x_t.flatten(0, 1), t.repeat_interleave(n_view)
        domains = {COLOURS: views}
        if self.options.cross_domain:
            normals = self._imagine_normals(views, angles, t, reference)
            domains = {NORMALS: normals, COLOURS: views}
        eps = self._predict(domains, angles, t, reference, guided).unflatten(1, x_t.shape[:2])
        return eps[0], (eps[1] if guided else None)

    def places(self, cameras: Cameras) -> Int[Tensor, "N V"]:
        """Which of the six fixed views each view is.

        Raises:
            ValueError: a view that is none of them, or two that are the same.
        """
        place = places(
            cameras.views[..., 0],
            cameras.azimuth_offset,
            self.options.azimuth_tolerance,
            self.options.elevation_tolerance,
            "Wonder3D",
            "the reference",
        )
        return place.to(cameras.views.device)

    def _predict(
        self,
        domains: dict[tuple[float, float], Float[Tensor, "B C h w"]],
        angles: Float[Tensor, "B 2"],
        t: Int[Tensor, " B"],
        reference: Reference,
        guided: bool,
    ) -> Float[Tensor, "P B C h w"]:
        """ε of the last domain, given the reference and, if `guided`, without it."""
        n_view = len(t) // len(reference.embedding)
        count, passes = len(domains), 2 if guided else 1
        embedding, latents = (
            with_nothing(x.repeat_interleave(n_view, dim=0), guided)
            for x in (reference.embedding[:, None], reference.latents)
        )
        numbers = [camera_and_domain(angles, domain).repeat(passes, 1) for domain in domains]
        eps = self.prior.predict_noise(
            torch.cat([x for x in domains.values() for _ in range(passes)]),
            t.repeat(count * passes),
            embedding.repeat(count, 1, 1),
            class_labels=torch.cat(numbers),
            condition=latents.repeat(count, 1, 1, 1),
            cross_attention_kwargs=(
                {"cross_domain": count == 2} if self._has_joint_attention else None
            ),
        )
        return eps.unflatten(0, (count, passes, -1))[-1]

    def _imagine_normals(
        self,
        views: Float[Tensor, "B C h w"],
        angles: Float[Tensor, "B 2"],
        t: Int[Tensor, " B"],
        reference: Reference,
    ) -> Float[Tensor, "B C h w"]:
        """Normals of the views, predicted from pure noise at the last timestep, noised to t."""
        schedule = self.prior.schedule
        last = torch.full_like(t, schedule.num_train_timesteps - 1)
        noise = torch.randn_like(views)
        (eps,) = self._predict({NORMALS: noise}, angles, last, reference, guided=False)
        normals = schedule.denoise(noise, eps, last)
        return schedule.add_noise(normals, torch.randn_like(views), t)


def camera_and_domain(
    angles: Float[Tensor, "B 2"], domain: tuple[float, float]
) -> Float[Tensor, "B 10"]:
    """The class embedding's input: sines, then cosines of five numbers.

    These are the reference's elevation, which is always 0, the two `EMBEDDED_ANGLES` of the view,
    and the domain, one-hot.
    """
    zeros = torch.zeros_like(angles[:, :1])
    numbers = torch.cat([zeros, angles, angles.new_tensor(domain).expand(len(angles), 2)], dim=1)
    return torch.cat([numbers.sin(), numbers.cos()], dim=1)
