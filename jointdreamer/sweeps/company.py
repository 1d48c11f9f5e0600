"""One call of the guidance for several runs of one process.

A tiny prior takes as long for 4 views as for 64. So runs of one method can share a process: each is
an ordinary run, and only its guidance is replaced by a `Seat`, which waits until the others have
rendered, too. Every run gets the loss, the gradient and the logged numbers of its own object.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from threestudio.utils.base import Updateable
from threestudio_jointdreamer.guidance.jsd import Distilled
from threestudio_jointdreamer.guidance.jsd_guidance import JSDGuidance
from torch import Tensor

from .turns import Member

PER_VIEW = ("elevation", "azimuth", "camera_distances", "c2w", "opacity", "fovy")


@dataclass
class Request:
    """What a run wants of the guidance at one step."""

    epoch: int
    step: int
    guidance: JSDGuidance
    rgb: Float[Tensor, "B H W C"]
    prompt_utils: Any
    views: dict[str, Tensor | None]
    rgb_as_latents: bool


class Seat(Updateable):
    """Stands for the guidance of one run.

    Args:
        guidance: the run's own.

    Raises:
        ValueError: it is no jsd-guidance.
    """

    def __init__(self, member: Member, guidance: Any) -> None:
        if not isinstance(guidance, JSDGuidance):
            raise ValueError(
                f"--together needs a system with jsd-guidance, not {type(guidance).__name__}: "
                "leave --together out."
            )
        self.guidance = guidance
        self._member, self._epoch, self._step = member, 0, 0

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self._epoch, self._step = epoch, global_step

    def __call__(
        self,
        rgb: Float[Tensor, "B H W C"],
        prompt_utils: Any,
        rgb_as_latents: bool = False,
        guidance_eval: bool = False,
        **batch: Any,
    ) -> dict[str, Any]:
        """As jsd-guidance; pictures are drawn without the others."""
        if guidance_eval:
            return self.guidance(
                rgb, prompt_utils, rgb_as_latents=rgb_as_latents, guidance_eval=True, **batch
            )
        views = {name: batch.get(name) for name in PER_VIEW}
        views = {name: None if view is None else view.detach() for name, view in views.items()}
        request = Request(
            self._epoch,
            self._step,
            self.guidance,
            rgb.detach(),
            prompt_utils,
            views,
            rgb_as_latents,
        )
        out, gradient = self._member.ask(request)
        return {**out, "loss_sds": _Handed.apply(rgb, gradient, out["loss_sds"])}


class _Handed(torch.autograd.Function):
    """A loss whose gradient was computed elsewhere."""

    @staticmethod
    def forward(ctx, rgb: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_output * gradient, None, None


class Table:
    """Where the runs meet: answers all requests of one step by one call."""

    def __init__(self) -> None:
        self._guidance: JSDGuidance | None = None

    def answer(self, waiting: Sequence[Member]) -> list[Member]:
        """Answers the members that are furthest behind, so that all come to one step."""
        step = min(member.request.step for member in waiting)
        chosen = [member for member in waiting if member.request.step == step]
        shape = chosen[0].request.rgb.shape
        chosen = [member for member in chosen if member.request.rgb.shape == shape]
        chosen[0].randomness.restore()  # alone, a run draws what it would draw by itself
        try:
            replies = self._replies([member.request for member in chosen])
        except Exception as error:
            replies = [error] * len(chosen)
        chosen[0].randomness.save()
        for member, reply in zip(chosen, replies, strict=True):
            member.reply = reply
        return chosen

    def _replies(self, requests: Sequence[Request]) -> list[tuple[dict[str, Any], Tensor]]:
        first = requests[0]
        if self._guidance is None:
            self._guidance = by_object(first.guidance)
        self._guidance.do_update_step(first.epoch, first.step)
        rgb = torch.cat([request.rgb for request in requests]).requires_grad_()
        views = {
            name: None if view is None else torch.cat([r.views[name] for r in requests])
            for name, view in first.views.items()
        }
        n_object = len(first.rgb) // self._guidance.cfg.n_view
        prompts = JointPrompts([request.prompt_utils for request in requests], n_object)
        out = self._guidance(rgb, prompts, rgb_as_latents=first.rgb_as_latents, **views)
        (gradient,) = torch.autograd.grad(out["loss_sds"].sum(), rgb)
        sizes = [len(request.rgb) for request in requests]
        parts = zip(*(_divided(out, sizes, self._guidance.cfg.n_view)), strict=True)
        names = list(out)
        return [
            (dict(zip(names, values, strict=True)), own)
            for values, own in zip(parts, gradient.split(sizes), strict=True)
        ]


def _divided(out: dict[str, Any], sizes: Sequence[int], n_view: int) -> list[list[Any]]:
    """Each number for every run: of objects, their mean; what is no tensor is everybody's."""
    objects = [size // n_view for size in sizes]
    return [
        [part.detach().mean() for part in value.split(objects)]
        if isinstance(value, Tensor)
        else [value] * len(sizes)
        for value in out.values()
    ]


class _ByObject:
    """Returns loss and scalars as tensors with one number for each object."""

    def _loss(self, x: Tensor, distilled: Distilled) -> dict[str, Tensor]:
        of_one, n_view = super()._loss, self.cfg.n_view
        parts = zip(x.split(n_view), _objects(distilled, n_view), strict=True)
        return _stacked([of_one(*part) for part in parts])

    def _scalars(self, distilled: Distilled) -> dict[str, Any]:
        of_one = super()._scalars
        return _stacked([of_one(one) for one in _objects(distilled, self.cfg.n_view)])


def by_object(guidance: JSDGuidance) -> JSDGuidance:
    """The same guidance with a loss for each object; frozen weights are shared with it."""
    kind = type(guidance)
    return type(f"{kind.__name__}ByObject", (_ByObject, kind), {})(guidance.cfg)


def _objects(distilled: Distilled, n_view: int) -> list[Distilled]:
    """What belongs to each object; without `views`, which only pictures are made of."""
    count = len(distilled.grad) // n_view
    own = []
    for index in range(count):
        rows = {"energy": slice(index, index + 1)}
        of_views = slice(index * n_view, (index + 1) * n_view)
        parts = {
            field.name: value[rows.get(field.name, of_views)]
            for field in fields(distilled)
            if isinstance(value := getattr(distilled, field.name), Tensor)
        }
        own.append(replace(distilled, views=None, **parts))
    return own


def _stacked(outs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: torch.stack([out[name] for out in outs]) if isinstance(value, Tensor) else value
        for name, value in outs[0].items()
    }


class JointPrompts:
    """The prompts of several runs as those of one batch, in which each has as many objects."""

    def __init__(self, prompts: Sequence[Any], n_object: int = 1) -> None:
        self._prompts = prompts
        self.use_perp_neg = prompts[0].use_perp_neg

        def of_each_object(name: str) -> Float[Tensor, "N L D"]:
            each = [getattr(prompt, name).expand(n_object, -1, -1) for prompt in prompts]
            return torch.cat(each)

        self.text_embeddings = of_each_object("text_embeddings")
        self.uncond_text_embeddings = of_each_object("uncond_text_embeddings")

    def get_text_embeddings(
        self, elevation: Tensor, azimuth: Tensor, camera_distances: Tensor, view_dependent: bool
    ) -> Float[Tensor, "BB L D"]:
        each = [
            prompt.get_text_embeddings(*cameras, view_dependent).chunk(2)
            for prompt, cameras in self._cameras(elevation, azimuth, camera_distances)
        ]
        return torch.cat([torch.cat(block) for block in zip(*each, strict=True)])

    def get_text_embeddings_perp_neg(
        self, elevation: Tensor, azimuth: Tensor, camera_distances: Tensor, view_dependent: bool
    ) -> tuple[Float[Tensor, "BBBB L D"], Float[Tensor, "B K"]]:
        each, weights = [], []
        for prompt, cameras in self._cameras(elevation, azimuth, camera_distances):
            found, weight = prompt.get_text_embeddings_perp_neg(*cameras, view_dependent)
            views = len(cameras[0])
            each.append(found.split([views, views, len(found) - 2 * views]))
            weights.append(weight)
        blocks = [torch.cat(block) for block in zip(*each, strict=True)]
        return torch.cat(blocks), torch.cat(weights)

    def _cameras(self, *cameras: Tensor) -> list[tuple[Any, tuple[Tensor, ...]]]:
        split = [values.chunk(len(self._prompts)) for values in cameras]
        return list(zip(self._prompts, zip(*split, strict=True), strict=True))
