"""Random `Views` for tests of energies."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace

import torch
from threestudio_jointdreamer.energies import Views
from threestudio_jointdreamer.priors.latent_prior import LatentPrior

from jointdreamer.testing.cameras import camera_ring
from jointdreamer.testing.prompts import RandomPrompts


def random_views(
    prior: LatentPrior, /, n_object: int = 2, n_view: int = 4, seed: int = 0, **changes
) -> Views:
    """Consistent views of random latents; `denoised` is a leaf that requires grad.

    Args:
        changes: fields to replace.
    """
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(n_object, n_view, *shape, generator=generator)

    latent = (prior.latent_channels, prior.latent_size, prior.latent_size)
    x, eps = randn(*latent), randn(*latent)
    t = torch.randint(100, 900, [n_object], generator=generator)
    prompts = RandomPrompts(seed)
    cameras = camera_ring(n_object, n_view)
    angles = (cameras["elevation"], cameras["azimuth"], cameras["camera_distances"])
    of_views = prompts.get_text_embeddings(*angles).unflatten(0, (2, n_object, n_view))
    views = Views(
        denoised=randn(*latent).requires_grad_(),
        latents=x,
        noisy=prior.schedule.add_noise(x, eps, t),
        noise=eps,
        t=t,
        prior=prior,
        rgb=randn(20, 20, 3).sigmoid(),
        opacity=randn(20, 20, 1).sigmoid(),
        **{name: value.unflatten(0, (n_object, n_view)) for name, value in cameras.items()},
        text_embeddings=prompts.text_embeddings.expand(n_object, -1, -1),
        uncond_text_embeddings=prompts.uncond_text_embeddings.expand(n_object, -1, -1),
        text_embeddings_of_views=of_views[0],
        uncond_text_embeddings_of_views=of_views[1],
    )
    return replace(views, **changes)


def level_views(prior: LatentPrior, /, n_object: int = 2, n_view: int = 4, **changes) -> Views:
    """`random_views` from the height of the object, turned by another angle for each object."""
    views = random_views(prior, n_object, n_view)
    turned = views.azimuth + 30 * torch.arange(n_object)[:, None]
    level = {"elevation": torch.zeros_like(views.elevation), "azimuth": turned}
    return replace(views, **(level | changes))


def gradient(C: torch.Tensor, views: Views) -> torch.Tensor:
    """∂C/∂x̂0, of all objects."""
    return torch.autograd.grad(C.sum(), views.denoised)[0]


@contextmanager
def unchanged(views: Views) -> Iterator[None]:
    """Fails if the block changes a tensor of the views."""
    tensors = {f.name: getattr(views, f.name) for f in fields(views)}
    tensors = {name: x for name, x in tensors.items() if isinstance(x, torch.Tensor)}
    before = {name: x.clone() for name, x in tensors.items()}
    yield
    for name, x in tensors.items():
        assert torch.equal(x, before[name]), name
