"""Several runs of one method in one process, with one call of the guidance for all of them.

    python -m jointdreamer.sweeps.together TASK.json

TASK.json lists the runs, each as {"arguments": of launch.py, "log": a file}; how a run ended goes
to a file `exit` beside its log. A tiny prior takes a GPU as long for 4 views as for 64, and this
makes one batch of what would be many. Each run is an ordinary run in a thread of its own:

1. One thread runs at a time, until it ends or asks its guidance (`Scheduler`, `RunThread`).
2. When all have stopped, the first of those that are furthest behind calls the guidance for all at
   its step (`distil_batch`); each gets the loss, the gradient and the numbers of its own objects.

A thread's random numbers are kept while it waits, and the first thread draws the noise from its
own: a run that is alone in its process is to the last bit what it is without all this.
"""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from ..host import errors, launcher
from ..host.selection import ensure_host, load_extension
from ..host.threads import set_thread_defaults

set_thread_defaults()
ensure_host()
load_extension()

import torch  # noqa: E402
from jaxtyping import Float  # noqa: E402
from pytorch_lightning import LightningModule, Trainer  # noqa: E402
from pytorch_lightning.callbacks import LambdaCallback  # noqa: E402
from pytorch_lightning.utilities.seed import isolate_rng  # noqa: E402
from threestudio.utils.base import Updateable  # noqa: E402
from threestudio_jointdreamer.files import replacing  # noqa: E402
from threestudio_jointdreamer.guidance.jsd_guidance import JSDGuidance  # noqa: E402
from torch import Tensor  # noqa: E402

from ..host import ending  # noqa: E402

CAMERAS = ("elevation", "azimuth", "camera_distances", "c2w", "fovy")
Answer = tuple[dict[str, Any], Tensor]  # what a guidance returns, and the gradient in the renders


@dataclass
class Request:
    """A run's call of its guidance at a step; `views` has renders, opacity and cameras."""

    step: int
    guidance: JSDGuidance
    prompt_utils: Any
    rgb_as_latents: bool
    views: dict[str, Tensor | None]


class RunThread(threading.Thread):
    """A run, which goes on when the scheduler lets it; its `log` then has the process's output."""

    def __init__(
        self, scheduler: "Scheduler", work: Callable[["RunThread"], None], log: TextIO | None = None
    ) -> None:
        super().__init__(daemon=True)
        self.request: Request | None = None  # while it waits for an answer
        self.answer: Answer | Exception | None = None
        self.batch: Sequence[RunThread] = ()  # the runs that it is to make the call for
        self._scheduler, self._work, self._log = scheduler, work, log
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)

    def run(self) -> None:
        self._go.acquire()
        try:
            self._work(self)
        finally:
            self.request = None
            self._stopped.release()

    def let_run(self) -> None:
        """Called by the scheduler; returns when this run waits for an answer, or has ended."""
        if self._log is not None:
            for number in (1, 2):
                os.dup2(self._log.fileno(), number)
        self._go.release()
        self._stopped.acquire()
        sys.stdout.flush()

    def ask(self, request: Request) -> Answer:
        """Waits until every run has stopped; called by this run.

        Raises:
            Exception: whatever the call of the guidance raised.
        """
        self.request = request
        with isolate_rng():
            self._stopped.release()
            self._go.acquire()
        if self.batch:
            try:
                answers = distil_batch([run.request for run in self.batch])
            except Exception as error:
                answers = [error] * len(self.batch)
            for run, answer in zip(self.batch, answers, strict=True):
                run.answer = answer
        self.request, self.batch = None, ()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Scheduler:
    """Lets one run go on at a time."""

    def __init__(self) -> None:
        self.runs: list[RunThread] = []

    def add(self, work: Callable[[RunThread], None], log: TextIO | None = None) -> None:
        self.runs.append(RunThread(self, work, log))

    def interrupt(self, number: int, frame: Any) -> None:
        """A signal handler: each run ends after its step; a second signal ends the process."""
        ending.asked.signal = number
        signal.signal(number, signal.SIG_DFL)

    def run(self) -> None:
        """Until every run has ended."""
        for run in self.runs:
            run.start()
        ready: Sequence[RunThread] = self.runs
        while ready:
            for run in ready:
                run.let_run()
            ready = next_batch([run for run in self.runs if run.request is not None])


def next_batch(waiting: Sequence[RunThread]) -> Sequence[RunThread]:
    """Those at the lowest step, so that all come to one, with renders of one size and one method.

    Numbers of the method may differ where `guidance_scale` waits for each shape to settle.
    """
    if not waiting:
        return []
    step = min(run.request.step for run in waiting)
    batch = [run for run in waiting if run.request.step == step]
    size, method = batch[0].request.views["rgb"].shape, batch[0].request.guidance.method
    batch = [run for run in batch if run.request.views["rgb"].shape == size]
    batch = [run for run in batch if run.request.guidance.method == method]
    batch[0].batch = batch
    return batch


class BatchedGuidance(Updateable):
    """Takes the place of a run's jsd-guidance, and asks it for the run together with others."""

    def __init__(self, guidance: Any, run: RunThread) -> None:
        if not isinstance(guidance, JSDGuidance):
            found = type(guidance).__name__
            raise ValueError(f"--together needs jsd-guidance, not {found}: leave --together out.")
        self.guidance, self._run, self._step = guidance, run, 0

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self._step = global_step

    def tell_settled(self, settled: bool) -> None:
        self.guidance.tell_settled(settled)

    def __call__(
        self,
        rgb: Float[Tensor, "B H W C"],
        prompt_utils: Any,
        rgb_as_latents: bool = False,
        guidance_eval: bool = False,
        opacity: Float[Tensor, "B H W 1"] | None = None,
        **batch: Any,
    ) -> dict[str, Any]:
        """As jsd-guidance, which draws pictures, and complains of a wrong batch, without others."""
        if guidance_eval or len(rgb) % self.guidance.cfg.n_view:
            how = dict(rgb_as_latents=rgb_as_latents, guidance_eval=guidance_eval, opacity=opacity)
            return self.guidance(rgb, prompt_utils, **how, **batch)
        views = {"rgb": rgb, "opacity": opacity, **{name: batch.get(name) for name in CAMERAS}}
        request = Request(self._step, self.guidance, prompt_utils, rgb_as_latents, views)
        out, gradient = self._run.ask(request)
        return out | {"loss_sds": _LossWithGradient.apply(rgb, out["loss_sds"], gradient)}


class _LossWithGradient(torch.autograd.Function):
    """A loss whose gradient in the renders is known."""

    @staticmethod
    def forward(ctx, rgb: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, None, None]:
        return grad_output * ctx.saved_tensors[0], None, None


def distil_batch(requests: Sequence[Request]) -> list[Answer | Exception]:
    """One call of the first one's guidance for all; every request has as many views.

    What is not finite is an error of its own run alone.
    """
    first, guidance = requests[0], requests[0].guidance
    views = {
        name: None if value is None else torch.cat([r.views[name].detach() for r in requests])
        for name, value in first.views.items()
    }
    rgb, opacity = views.pop("rgb").requires_grad_(), views.pop("opacity")
    n_view = len(rgb) // len(requests)
    n_object = n_view // guidance.cfg.n_view
    prompts = JointPrompts([request.prompt_utils for request in requests], n_object)
    with torch.autocast(rgb.device.type, enabled=False):
        x, distilled, *_ = guidance.distil(rgb, prompts, views, first.rgb_as_latents, opacity)
        outs = []
        failed: dict[int, Answer | Exception] = {}
        for index, request in enumerate(requests):
            rows = slice(index * n_view, (index + 1) * n_view)
            part = distilled.part(rows, slice(index * n_object, (index + 1) * n_object))
            try:
                request.guidance.check_finite(rgb[rows], x[rows], part)
            except ValueError as error:  # the others go on
                failed[index] = error
            outs.append(guidance.loss_and_scalars(x[rows], part))
        (gradient,) = torch.autograd.grad(sum(out["loss_sds"] for out in outs), rgb)
    outs = [{k: v.detach() if isinstance(v, Tensor) else v for k, v in o.items()} for o in outs]
    answers = zip(outs, gradient.split(n_view), strict=True)
    return [failed.get(index, answer) for index, answer in enumerate(answers)]


class JointPrompts:
    """The prompts of several runs, each of as many objects, as those of one batch."""

    def __init__(self, prompts: Sequence[Any], n_object: int = 1) -> None:
        self._prompts = prompts
        self.use_perp_neg = prompts[0].use_perp_neg
        self.text_embeddings, self.uncond_text_embeddings = (
            torch.cat([getattr(prompt, name).expand(n_object, -1, -1) for prompt in prompts])
            for name in ("text_embeddings", "uncond_text_embeddings")
        )
        images = [getattr(prompt, "image", None) for prompt in prompts]
        given = images[0] is not None
        self.image = torch.stack(images).repeat_interleave(n_object, dim=0) if given else None
        if hasattr(prompts[0], "encoded_by"):
            self.encoded_by = lambda name: JointPrompts(
                [prompt.encoded_by(name) for prompt in prompts], n_object
            )

    def get_text_embeddings(self, *cameras: Any) -> Float[Tensor, "BB L D"]:
        return _by_kind(p.get_text_embeddings(*own).chunk(2) for p, own in self._split(*cameras))

    def get_text_embeddings_perp_neg(
        self, *cameras: Any
    ) -> tuple[Float[Tensor, "BBBB L D"], Float[Tensor, "B K"]]:
        each, weights = [], []
        for prompt, own in self._split(*cameras):
            found, weight = prompt.get_text_embeddings_perp_neg(*own)
            n_view = len(weight)
            each.append(found.split([n_view, n_view, len(found) - 2 * n_view]))
            weights.append(weight)
        return _by_kind(each), torch.cat(weights)

    def _split(self, *cameras: Any) -> list[tuple[Any, tuple[Any, ...]]]:
        """Each run's prompts with its part of the angles; the last argument is everybody's."""
        *angles, view_dependent = cameras
        parts = zip(*(values.chunk(len(self._prompts)) for values in angles), strict=True)
        return [(p, (*own, view_dependent)) for p, own in zip(self._prompts, parts, strict=True)]


def _by_kind(embeddings: Iterable[Sequence[Tensor]]) -> Tensor:
    """Text, empty prompt and negatives of each run: first all texts, then all of the next kind."""
    return torch.cat([of_a_run for kind in zip(*embeddings, strict=True) for of_a_run in kind])


def carry_out(arguments: list[str], log: Path, run: RunThread) -> None:
    """An ordinary run with a batched guidance, whose exit status goes beside its log."""

    def replace_guidance(trainer: Trainer, system: LightningModule) -> None:
        system.guidance = BatchedGuidance(getattr(system, "guidance", None), run)

    callback = LambdaCallback(on_train_start=replace_guidance)
    code = 1
    try:
        with errors.reported(verbose="--verbose" in arguments) as outcome:
            launcher.run(arguments, [callback])
        code = outcome.code
    except SystemExit as error:
        code = error.code
    except Exception:  # the others go on
        traceback.print_exc()
    with replacing(log.with_name("exit")) as new:
        new.write_text(str(code))


def main(task: str) -> None:
    scheduler = Scheduler()
    for one in json.loads(Path(task).read_text(encoding="utf-8")):
        path = Path(one["log"])
        scheduler.add(partial(carry_out, one["arguments"], path), open(path, "a"))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, scheduler.interrupt)
    scheduler.run()
    sys.exit(ending.status())


if __name__ == "__main__":
    main(*sys.argv[1:])
