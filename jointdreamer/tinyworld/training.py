"""One training loop for every tiny model: AdamW, warm-up and cosine, averaged weights, resuming."""

import io
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from diffusers.training_utils import EMAModel
from threestudio_jointdreamer.files import replacing
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ..progress import progress

TIMED_STEPS = 300  # that `max_seconds` judges the speed by
LOOK_EVERY = 50  # steps; to read the loss is to wait for the GPU
WARM_UP = 3  # steps before one is captured


def autocast_on_gpu(device: torch.device) -> torch.autocast:
    """Mixed precision (bfloat16) where the device is a GPU."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train."""

    steps: int  # of the optimizer
    lr: float = 5e-4  # AdamW's peak, reached after `warmup` steps; then a cosine to zero
    warmup: int = 200  # steps of linear warm-up
    weight_decay: float = 1e-2
    ema: float = 0.999  # decay of the averaged weights (less in the first steps), or 0 for none
    clip: float = 1.0  # bound on the gradient's norm
    seed: int = 0  # of every draw made during training
    save_every: int = 2000  # steps between saved states, of which resuming takes the last
    max_seconds: float | None = None  # shorten `steps` to this time at the first steps' speed

    def schedule(self, optimizer: torch.optim.Optimizer, step: int = 0) -> LambdaLR:
        """The learning rates from `step` on, as shares of those that `optimizer` was made with."""

        def share(step: int) -> float:
            ramp = min(1.0, (step + 1) / max(1, self.warmup))
            return ramp * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))

        for group in optimizer.param_groups:
            group.setdefault("initial_lr", float(group["lr"]))
        return LambdaLR(optimizer, share, last_epoch=step - 1)


class Stage(ABC):
    """One tiny model: its data, its loss, and how it is saved.

    Made of the folder of the weights, the number of pictures (or groups of views) to render, a seed
    for weights and pictures, and the device.
    """

    plan: ClassVar[TrainingPlan]
    pictures: ClassVar[int]  # rendered, if nobody says how many
    batch: ClassVar[int]
    captured: ClassVar[bool] = False  # as a CUDA graph: the loss waits for nothing
    model: nn.Module

    @abstractmethod
    def loss(self, batch: int) -> Tensor:
        """The mean loss of a batch drawn by torch's global generators."""

    @abstractmethod
    def save(self, root: Path) -> dict[str, float]:
        """Writes the trained model, and returns what was measured of it."""


class Trainer:
    """Minimises `loss()`, whose draws must come from torch's global generators.

    Args:
        model: what is trained.
        loss: makes one batch and returns its scalar loss.
        plan: steps, rates, seed.
        state_path: where the state of an interrupted training is kept.
        captured: on a GPU, replay a step as a CUDA graph: one launch in place of thousands, which
            take small models longer than the work. The loss may not wait for the GPU.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[], Tensor],
        plan: TrainingPlan,
        state_path: Path,
        captured: bool = False,
    ) -> None:
        self.model, self.loss, self.plan, self.state_path = model, loss, plan, state_path
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        on_gpu = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=torch.tensor(plan.lr, device=self.device),  # a graph reads it anew at every step
            betas=(0.9, 0.99),
            weight_decay=plan.weight_decay,
            fused=on_gpu,
            capturable=on_gpu,
        )
        self.average = EMAModel(self.parameters, decay=plan.ema, foreach=True)
        self.recent_loss = torch.zeros((), device=self.device)
        self.step = 0
        self.captured, self.warm, self.graph = captured and on_gpu, 0, None
        self.stream = torch.cuda.Stream() if self.captured else None

    def run(self, name: str) -> dict[str, float]:
        """Trains to the end and leaves the averaged weights in the model.

        Returns:
            steps, seconds and the last smoothed loss.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        self._resume()
        torch.manual_seed(self.plan.seed + self.step)
        begin = time.perf_counter()
        if self.plan.max_seconds:
            end = min(self.step + TIMED_STEPS, self.plan.steps)
            self._train_to(min(self.step + TIMED_STEPS // 5, end), name)  # they prepare, too
            timed, since = self.step, time.perf_counter()
            self._train_to(end, name)
            step_seconds = (time.perf_counter() - since) / max(1, self.step - timed)
            left = self.plan.max_seconds - (time.perf_counter() - begin)
            possible = self.step + max(0, int(left / step_seconds))
            self.plan = replace(self.plan, steps=min(self.plan.steps, possible))
        self._train_to(self.plan.steps, name)
        self.average.copy_to(self.parameters)
        self.state_path.unlink(missing_ok=True)
        seconds = time.perf_counter() - begin
        return {"steps": self.step, "seconds": seconds, "loss": self.recent_loss.item()}

    def _train_to(self, end: int, name: str) -> None:
        schedule, shown = self.plan.schedule(self.optimizer, self.step), self.step
        with progress(name, total=end - self.step) as advance:
            while self.step < end:
                self._train_step()
                schedule.step()
                self.step += 1
                if self.step % LOOK_EVERY == 0 or self.step == end:
                    value = self.recent_loss.item()
                    if not math.isfinite(value):
                        raise FloatingPointError(f"{name}: loss is {value} at step {self.step}.")
                    advance(self.step - shown, f"loss {value:.4f}")
                    shown = self.step
                if self.step % self.plan.save_every == 0 and self.step < self.plan.steps:
                    self._save()
                    torch.manual_seed(self.plan.seed + self.step)

    def _train_step(self) -> None:
        if self.captured and self.graph is None and self.warm == WARM_UP:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.stream):
                self._minimise()
        if self.graph is not None:
            self.graph.replay()
        elif self.captured:  # on a stream of its own, as what is captured later
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self._minimise()
            torch.cuda.current_stream().wait_stream(self.stream)
            self.warm += 1
        else:
            self._minimise()
        self.average.step(self.parameters)

    def _minimise(self) -> None:
        self.optimizer.zero_grad()
        with autocast_on_gpu(self.device):
            loss = self.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.plan.clip)
        self.optimizer.step()
        self.recent_loss.lerp_(loss.detach().float(), 0.02)

    def _save(self) -> None:
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "recent_loss": self.recent_loss,
        }
        buffer = io.BytesIO()  # torch hides that the disk is full
        torch.save(state, buffer)
        with replacing(self.state_path) as path:
            path.write_bytes(buffer.getbuffer())

    def _resume(self) -> None:
        if not self.state_path.exists():
            return
        state = torch.load(self.state_path, map_location=self.device, weights_only=True)
        self.step, self.recent_loss = state["step"], state["recent_loss"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
