"""One training loop for every tiny model: AdamW, warm-up and decay, EMA, CUDA graph, resumable."""

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn

_TIMED_STEPS = 300


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train.

    Args:
        steps: optimizer steps.
        lr: AdamW's peak learning rate, reached after `warmup` steps; then a cosine to zero.
        warmup: steps of linear warm-up.
        weight_decay: AdamW's.
        ema: decay of the averaged weights (ramped up early on), or 0 for none.
        clip: bound on the gradient's norm.
        seed: seeds every draw made during training.
        save_every: steps between saved states (resuming picks up the last one).
        cuda_graph: on a GPU, capture the whole step (the loss may then not synchronise).
        max_seconds: shorten `steps` to what fits this time at the speed of the first steps.
    """

    steps: int
    lr: float = 5e-4
    warmup: int = 200
    weight_decay: float = 1e-2
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0
    save_every: int = 2000
    cuda_graph: bool = True
    max_seconds: float | None = None

    def learning_rate(self, step: int) -> float:
        ramp = min(1.0, (step + 1) / self.warmup)
        return self.lr * ramp * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))


def _atomic_save(state: dict, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(state, temporary)
    os.replace(temporary, path)


class Trainer:
    """Minimises `loss()` over `modules`; draws must come from torch's global generators.

    Args:
        modules: what is trained, by name.
        loss: builds one batch and returns its scalar loss.
        plan: steps, rates, seed.
        state_path: where the resumable state is kept.
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        loss: Callable[[], Tensor],
        plan: TrainingPlan,
        state_path: Path,
    ) -> None:
        self.modules, self.loss, self.plan, self.state_path = modules, loss, plan, state_path
        self.parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        on_gpu = self.device.type == "cuda"
        rate = torch.tensor(plan.lr, device=self.device) if on_gpu else plan.lr
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=rate,
            betas=(0.9, 0.99),
            weight_decay=plan.weight_decay,
            fused=on_gpu,
            capturable=on_gpu,
        )
        self.averages = [p.detach().clone() for p in self.parameters]
        self.average_weight = torch.ones((), device=self.device)
        self.running_loss = torch.zeros((), device=self.device)
        self.step = 0

    def _one_step(self) -> None:
        with torch.autocast(
            self.device.type,
            dtype=torch.bfloat16,
            enabled=self.device.type == "cuda",
            cache_enabled=False,
        ):
            loss = self.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.plan.clip, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            change = torch._foreach_sub(self.parameters, self.averages)
            torch._foreach_mul_(change, self.average_weight)
            torch._foreach_add_(self.averages, change)
            self.running_loss.lerp_(loss.detach().float(), 0.02)

    def _set_schedules(self) -> None:
        rate = self.plan.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        self.average_weight.fill_(1 - decay)

    def _captured(self) -> Callable[[], None]:
        """The step as one CUDA graph; warm-up steps run on copies and change nothing."""
        keep = self._state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.optimizer.zero_grad(set_to_none=True)
                self._one_step()
        torch.cuda.current_stream().wait_stream(stream)
        self._restore(keep)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._one_step()
        return graph.replay

    def _eager(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self._one_step()

    def _state(self) -> dict:
        clone = lambda tensors: [t.detach().clone() for t in tensors]  # noqa: E731
        moments = [
            {k: v.clone() for k, v in self.optimizer.state[p].items()}
            for p in self.parameters
            if p in self.optimizer.state
        ]
        return {
            "step": self.step,
            "parameters": clone(self.parameters),
            "averages": clone(self.averages),
            "moments": moments,
            "running_loss": self.running_loss.clone(),
        }

    @torch.no_grad()
    def _restore(self, state: dict) -> None:
        """Copies a state in place, so that a captured graph stays valid."""
        self.step = state["step"]
        for target, source in (
            *zip(self.parameters, state["parameters"], strict=True),
            *zip(self.averages, state["averages"], strict=True),
        ):
            target.copy_(source)
        for i, parameter in enumerate(self.parameters):
            for name, value in self.optimizer.state[parameter].items():
                saved = state["moments"][i][name] if state["moments"] else None
                value.copy_(saved) if saved is not None else value.zero_()
        self.running_loss.copy_(state["running_loss"])

    def _resume(self) -> None:
        if not self.state_path.exists():
            return
        state = torch.load(self.state_path, map_location=self.device, weights_only=True)
        if not self.optimizer.state:  # moments exist only after a first step
            for parameter in self.parameters:
                parameter.grad = torch.zeros_like(parameter)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self._restore(state)

    def _fit_to_time(self, elapsed: float) -> None:
        possible = int(self.plan.max_seconds / elapsed * _TIMED_STEPS)
        self.plan = replace(self.plan, steps=max(_TIMED_STEPS, min(self.plan.steps, possible)))

    def run(self, name: str) -> dict[str, float]:
        """Trains to the end and leaves the averaged weights in the modules.

        Returns:
            steps, seconds and the last smoothed loss.
        """
        self._resume()
        first = self.step
        torch.manual_seed(self.plan.seed + first)
        captured = self.device.type == "cuda" and self.plan.cuda_graph
        step = self._captured() if captured else self._eager
        torch.manual_seed(self.plan.seed + first)
        start = time.perf_counter()
        with _progress() as bar:
            task = bar.add_task(name, total=self.plan.steps, completed=first, loss=float("nan"))
            while self.step < self.plan.steps:
                self._set_schedules()
                step()
                self.step += 1
                if self.step == first + _TIMED_STEPS and self.plan.max_seconds:
                    self.running_loss.item()  # wait for the device
                    self._fit_to_time(time.perf_counter() - start)
                    bar.update(task, total=self.plan.steps)
                if self.step % 50 == 0:
                    value = self.running_loss.item()
                    if not math.isfinite(value):
                        raise FloatingPointError(f"{name}: loss is {value} at step {self.step}.")
                    bar.update(task, completed=self.step, loss=value)
                    if self.step % 1000 == 0 and not bar.console.is_terminal:
                        elapsed = time.perf_counter() - start
                        left = elapsed / (self.step - first) * (self.plan.steps - self.step)
                        bar.console.print(
                            f"{name} {self.step}/{self.plan.steps} loss {value:.4f} "
                            f"elapsed {elapsed:.0f} s, {left:.0f} s left"
                        )
                if self.step % self.plan.save_every == 0 and self.step < self.plan.steps:
                    _atomic_save(self._state(), self.state_path)
                    torch.manual_seed(self.plan.seed + self.step)
        seconds = time.perf_counter() - start
        if self.plan.ema:
            with torch.no_grad():
                for parameter, average in zip(self.parameters, self.averages, strict=True):
                    parameter.copy_(average)
        self.state_path.unlink(missing_ok=True)
        return {"steps": self.step, "seconds": seconds, "loss": self.running_loss.item()}


def _progress() -> Progress:
    columns: Iterable = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )
    return Progress(*columns, refresh_per_second=1)
