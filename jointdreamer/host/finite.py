"""Stops training at the first step whose loss or weights are not finite."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from threestudio_jointdreamer.finite import FiniteCheck

WEIGHTS = "the weights {} are not finite. Lower the learning rates, system.optimizer."


class StopAtNonFinite(Callback):
    """Checks each step's loss and weights, and what a checkpoint holds before it is saved.

    What they follow from (render, prior, energy) is jsd-guidance's to check, and is asked first.
    """

    def __init__(self) -> None:
        self._check = FiniteCheck()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        self._check.look()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *batch: Any
    ) -> None:
        weights = {
            WEIGHTS.format(name): weight
            for name, weight in pl_module.named_parameters()
            if weight.requires_grad
        }
        loss = {"the loss is not finite. Lower system.loss.": outputs["loss"]} if outputs else {}
        self._check.note(trainer.global_step - 1, loss | weights)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        of_guidance = getattr(getattr(pl_module, "guidance", None), "finite_check", None)
        for check in (of_guidance, self._check):
            if check is not None:
                check.look(wait=True)
        tensors = {WEIGHTS.format(name): value for name, value in checkpoint["state_dict"].items()}
        self._check.note(trainer.global_step, tensors)
        self._check.look(wait=True)
