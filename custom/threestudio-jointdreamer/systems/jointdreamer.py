"""`jointdreamer-system`: renders, asks the guidance, adds the regularisers, shows what it does.

CFG switching and time annealing are schedules of the guidance (`guidance_scale`,
`min_step_percent`, `max_step_percent`), the late energy one of `energy_weight`; geometry fading is
a block of this system. All follow the global step alone, but for a guidance scale that waits for
the shape, whose state is in the checkpoints: one config is one run, and a run resumed on either
side of a switch continues as if it had never stopped. A stage that starts from another run's
weights or geometry is a run of its own and counts from step 0.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import threestudio
import torch
from jaxtyping import Float
from threestudio.systems.base import BaseLift3DSystem
from threestudio.utils.config import parse_structured
from torch import Tensor

from ..config_values import parse_fields
from ..guidance.settling import WINDOWS, SettlingShape, waits
from ..step_schedule import StepSchedule
from .chunked_rendering import Fitting, render_in_chunks
from .geometry_fading import GeometryFading, GeometryFadingConfig, stepping_with
from .losses import REGULARISERS, LossWeights
from .seeding import StepSeeder
from .stage_weights import make_plain, take_weights
from .viewing import ViewingMixin


@threestudio.register("jointdreamer-system")
class JointDreamer(ViewingMixin, BaseLift3DSystem):
    """Text-to-3D by Joint Score Distillation, with any guidance of threestudio's interface."""

    @dataclass
    class Config(BaseLift3DSystem.Config):
        # every how many steps the guidance's pictures are saved; 0: never
        guidance_eval_step: Annotated[int, "[0, inf)"] = 0
        transparent_film: bool = False  # the test's film without its background, too
        # null: no fading
        geometry_fading: Annotated[dict | None, GeometryFadingConfig] = None
        loss: Annotated[dict, LossWeights] = field(default_factory=dict)
        # how many rays are rendered, and differentiated, at once; 0: all of them; by default all,
        # or with guidance.memory=low as many as fit into the free memory
        render_chunk: Annotated[int | None, "[0, inf)"] = None

        def __post_init__(self) -> None:
            parse_fields(self, "system")
            if self.geometry_fading is not None:
                fading = GeometryFadingConfig(**self.geometry_fading)
                GeometryFading(fading, self.optimizer.get("params") or {})

    cfg: Config

    def configure(self) -> None:
        """Checks the config, then builds geometry, material, background and renderer.

        Raises:
            ValueError: for what one of these does not take.
        """
        self._seed_step = StepSeeder(torch.initial_seed())
        self._lambdas = {
            key: StepSchedule(value, f"system.loss.{key}") for key, value in self.cfg.loss.items()
        }
        self.fading = self._parse_fading()
        offloads = self.cfg.guidance.get("offload")  # then the UNets want the room of a held graph
        self._fitting = Fitting(held=0.0) if offloads else Fitting()
        self._rates: dict[str, float] = {}  # of the parameter groups that fade, at this step
        scale = self.cfg.guidance.get("guidance_scale")
        self._shape = SettlingShape() if waits(scale) else None
        super().configure()

    def _parse_fading(self) -> GeometryFading | None:
        if self.cfg.geometry_fading is None:
            return None
        cfg = parse_structured(GeometryFadingConfig, self.cfg.geometry_fading)
        return GeometryFading(cfg, self.cfg.optimizer.get("params", {}))

    def load_weights(self, weights: str, ignore_modules: list[str] | None = None) -> None:
        """Starts from an earlier stage's checkpoint; a run that is resumed has weights of its own.

        Raises:
            ValueError: that stage had another geometry.
        """
        if not self.resumed:
            epoch, global_step = take_weights(self, weights, ignore_modules)
            self.do_update_step(epoch, global_step, on_load_weights=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self._shape is not None:
            checkpoint["settling_shape"] = vars(self._shape).copy()
        make_plain(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self._shape is not None:
            self._shape = SettlingShape(checkpoint.get("settling_shape"))

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.prompt_processor = threestudio.find(self.cfg.prompt_processor_type)(
            self.cfg.prompt_processor
        )
        self.guidance = threestudio.find(self.cfg.guidance_type)(self.cfg.guidance)

    def on_train_batch_start(self, batch: dict, batch_idx: int, unused: int = 0) -> None:
        if self._shape is not None:
            self.guidance.tell_settled(self._shape.settled)
        self._seed_step(self.true_global_step)  # first: what follows may draw random numbers
        super().on_train_batch_start(batch, batch_idx, unused)
        if self.fading is not None:
            self._rates = self.fading.rates(self.trainer.optimizers[0], self.true_global_step)
        if self._shape is not None:
            self._watch_shape(batch)

    def _watch_shape(self, batch: dict[str, Any]) -> None:
        """Looks whether the shape has settled, where that is due; the next step will know."""
        if (steps := self.trainer.max_steps) < 1:
            raise ValueError(
                "system.guidance.guidance_scale=[settled, ...] needs trainer.max_steps."
            )
        if self.true_global_step % max(1, steps // WINDOWS) == 0:
            mean = self.trainer.strategy.reduce
            self._shape.look(self.true_global_step, batch, self._opacity_now, mean)

    @torch.no_grad()
    def _opacity_now(self, batch: dict[str, Any]) -> Float[Tensor, "B H W 1"]:
        self.eval()  # without random numbers
        opacity = self(self.transfer_batch_to_device(batch, self.device, 0))["opacity"]
        self.train()
        return opacity

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        chunk = self.cfg.render_chunk or 0
        chooses = self.cfg.render_chunk is None and self.training and self._saves_memory()
        if chooses:
            chunk = self._fitting.rays(batch["rays_d"], self.renderer)
        elif chunk == 0:
            return self.renderer(**batch)
        trained = [p for p in self.parameters() if p.requires_grad]
        fitting = self._fitting if chooses else None
        return render_in_chunks(self.renderer, self.background, trained, batch, chunk, fitting)

    def _saves_memory(self) -> bool:
        return (
            self.cfg.guidance.get("memory") == "low"
            and self.cfg.renderer_type == "nerf-volume-renderer"
        )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        out = self(batch)
        shows = self._shows_guidance()
        guidance_out = self.guidance(
            out["comp_rgb"],
            self.prompt_processor(),
            **batch,
            opacity=out["opacity"],
            rgb_as_latents=False,
            guidance_eval=shows,
        )
        if shows:
            self.save_guidance_pictures(out["comp_rgb"], guidance_out.pop("eval"), batch)
        self._log_scalars("train", guidance_out)
        loss = self._guidance_loss(guidance_out) + self._regularisation(out)
        if self.trainer.world_size > 1:  # DDP waits for a gradient of every parameter
            loss = loss + 0.0 * sum(p.sum() for p in self.parameters() if p.requires_grad)
        self._log_scalars("train_params", self._parameters_now())
        return {"loss": loss}

    def _shows_guidance(self) -> bool:
        every, step = self.cfg.guidance_eval_step, self.true_global_step
        return every > 0 and step > 0 and step % every == 0

    def _weight(self, name: str) -> float:
        """λ of a loss at this step; 0 where the config does not name it."""
        key = f"lambda_{name}"
        if key not in self._lambdas or (name == "orient" and self._orientation_is_off()):
            return 0.0
        return self._lambdas[key](self.true_current_epoch, self.true_global_step)

    def _orientation_is_off(self) -> bool:
        return self.fading is not None and self.fading.orientation_is_off(self.true_global_step)

    def _guidance_loss(self, guidance_out: dict[str, Any]) -> Float[Tensor, ""]:
        names = [key.removeprefix("loss_") for key in guidance_out if key.startswith("loss_")]
        for name in names:
            if f"lambda_{name}" not in self._lambdas:
                raise ValueError(
                    f"system.loss.lambda_{name} is missing, but {self.cfg.guidance_type} returns "
                    f"loss_{name}. Add it, for example system.loss.lambda_{name}=1."
                )
        return sum(self._weight(name) * guidance_out[f"loss_{name}"] for name in names)

    def _regularisation(self, out: dict[str, Any]) -> Float[Tensor, ""] | float:
        total = 0.0
        for name, loss_of in REGULARISERS.items():
            if (weight := self._weight(name)) != 0:
                loss = loss_of(out)
                self._log_scalars("train", {f"loss_{name}": loss})
                total = total + weight * loss
        return total

    def _parameters_now(self) -> dict[str, float]:
        now = {key: self._weight(key.removeprefix("lambda_")) for key in self._lambdas}
        now |= {f"lr_{name}": rate for name, rate in self._rates.items()}
        if self._shape is not None:
            now |= {"shape_change": self._shape.change, "settled": float(self._shape.settled)}
        return now

    def _log_scalars(self, group: str, values: dict[str, Any]) -> None:
        # Lightning would copy every value to the device at every step and drop most of them
        if (self.true_global_step + 1) % self.trainer.log_every_n_steps:
            return
        for name, value in values.items():
            if isinstance(value, Tensor):
                if value.numel() == 1:
                    self.log(f"{group}/{name}", value.detach().float().reshape(()))
            elif isinstance(value, int | float):
                self.log(f"{group}/{name}", float(value))

    def on_validation_model_train(self) -> None:
        # Lightning alone would set flags only, and threestudio's renderer reacts to train()
        self.train()

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None) -> None:
        with stepping_with(self.trainer.optimizers[0], self._rates):
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            if hasattr(self.geometry, "after_optimizer_step"):
                self.geometry.after_optimizer_step(self.trainer.optimizers[0], self.global_step)
