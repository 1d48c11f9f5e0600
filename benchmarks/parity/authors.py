"""The authors' guidance against jsd-guidance with configs/authors*.yaml: loss, gradient in rgb.

    JOINTDREAMER_ROOT=... python -m benchmarks.parity.authors [--write-fixture]

The variable names a checkout of github.com/chanyn/JointDreamer at 8cca276; its
`interview-diffusion-guidance-mvdream` is given the same random Stable Diffusion and MVDream weights
of reduced width, the same renders, opacities, cameras, timesteps, noises and prompts, in float64 on
the CPU. Pictures are a quarter as wide as at full size (128 and 64 pixels). Without the variable
our results are compared with digests of theirs, the fixture that the tests use.
"""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from benchmarks.measure import load_host

load_host()

from omegaconf import OmegaConf  # noqa: E402
from threestudio_jointdreamer.energies import multiview as multiview_energy  # noqa: E402
from threestudio_jointdreamer.guidance import jsd_guidance  # noqa: E402
from threestudio_jointdreamer.priors.latent_prior import LatentPrior  # noqa: E402
from threestudio_jointdreamer.priors.schedule import NoiseSchedule  # noqa: E402

from benchmarks.parity import mvdream  # noqa: E402
from benchmarks.parity.checkouts import importing_from  # noqa: E402
from benchmarks.parity.seeded import (  # noqa: E402
    digest_errors,
    digests,
    fill,
    fill_module,
    noise,
    relative_errors,
    shapes_of,
    write_fixture,
)
from jointdreamer.testing.cameras import camera_ring  # noqa: E402
from jointdreamer.testing.prompts import RandomPrompts  # noqa: E402

ENVIRONMENT = "JOINTDREAMER_ROOT"
SOURCE = "github.com/chanyn/JointDreamer at 8cca276, interview-diffusion-guidance-mvdream"
ROOT = Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "tests" / "parity" / "fixtures" / "authors.json"
TARGET = 1e-6  # relative error in float64
SEED, TOKENS, TEXT = 11, 5, mvdream.SIZES["reduced"]["text"]
PIXELS = {512: 128, 256: 64}  # of the two models' pictures, at full size and here


@dataclass(frozen=True)
class Case:
    """One call of the guidance.

    Attributes:
        stage: of configs/authors<stage>.yaml.
        step: decides s, λ and, with `at`, how noisy the views are.
        t: the timestep that is drawn.
        masked: the opacity varies; else it is 1.
        negative: the negative prompt has taken the empty one's place.
    """

    stage: str
    step: int
    batch: int
    t: int
    masked: bool = True
    negative: bool = False


CASES = {
    "before the energy": Case("", 600, 8, 850),
    "with the energy, opaque": Case("", 601, 8, 850, masked=False),
    "with the energy and the mask": Case("", 601, 8, 850),
    "little noise": Case("", 2999, 8, 40),
    "half the batch, negative prompt": Case("", 3000, 4, 400, negative=True),
    "refinement": Case("-refine", 10, 4, 300, negative=True),
    "mesh, with cfg rescale": Case("-dmtet", 10, 8, 300, negative=True),
}


def inputs(case: Case) -> dict[str, Any]:
    """What both sides' guidance is called with; prompts as threestudio's PromptProcessorOutput."""
    shape = (case.batch, 64, 64)
    opacity = noise("opacity", (*shape, 1), SEED).sigmoid()
    prompts = RandomPrompts()
    prompts.text_embeddings, prompts.uncond_text_embeddings, prompts.direction = (
        noise(name, (1, TOKENS, TEXT), SEED)
        for name in ("text", "negative" if case.negative else "empty", "direction")
    )
    return {
        "rgb": noise("rgb", (*shape, 3), SEED).sigmoid().requires_grad_(),
        "prompt_utils": prompts,
        "opacity": opacity if case.masked else torch.ones_like(opacity),
        **{name: value.double() for name, value in camera_ring(case.batch // 4, 4).items()},
    }


@contextmanager
def given_noise(*posteriors: type) -> Iterator[None]:
    """Noises depend on their shape alone: of x_t (`randn_like`) and of these VAEs' samples."""

    def sample(posterior: Any, generator: Any = None) -> Tensor:
        return posterior.mean + posterior.std * noise("vae", posterior.mean.shape, SEED)

    with ExitStack() as stack:
        eps = patch.object(torch, "randn_like", lambda x, **_: noise("eps", x.shape, SEED))
        stack.enter_context(eps)
        for kind in (DiagonalGaussianDistribution, *posteriors):
            stack.enter_context(patch.object(kind, "sample", sample))
        yield


def stable_diffusion() -> tuple[UNet2DConditionModel, AutoencoderKL, DDIMScheduler]:
    """Of reduced width, in float64; the same for both sides."""
    unet = UNet2DConditionModel(
        sample_size=PIXELS[512] // 8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=TEXT,
        norm_num_groups=8,
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=PIXELS[512],
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    for model in (unet, vae):
        fill_module(model, SEED)
        model.eval().requires_grad_(False)
    return unet, vae, scheduler


def distil(guidance: Any, batch: dict[str, Any], **more: Any) -> dict[str, Tensor]:
    """The guidance's loss and its gradient in the renders."""
    loss = guidance(**batch, **more)["loss_sds"]
    loss.backward()
    return {"loss": loss.detach()[None], "gradient": batch["rgb"].grad}


def run_ours(
    case: Case, mv_unet: dict[str, Tensor], mv_vae: dict[str, Tensor], changes: dict | None = None
) -> dict[str, Tensor]:
    """jsd-guidance with the block of configs/authors<stage>.yaml.

    Args:
        mv_unet, mv_vae: MVDream's weights under its own names.
        changes: keys of the block that are changed.
    """
    unet, vae, scheduler = stable_diffusion()
    schedule = NoiseSchedule(scheduler.alphas_cumprod)
    cfg = OmegaConf.load(ROOT / "configs" / f"authors{case.stage}.yaml")
    block = OmegaConf.merge(cfg.system.guidance, {"n_view": cfg.data.n_view}, changes or {})

    def load_multiview(*args: Any, **kwargs: Any) -> LatentPrior:
        model = mvdream.build_ours(dict(mv_unet), "mvdream-sd21", "reduced").double().eval()
        model.register_to_config(sample_size=PIXELS[256] // 8)
        own = mvdream.build_ours(dict(mv_vae), "mvdream-vae", "reduced").double().eval()
        return LatentPrior(model.requires_grad_(False), schedule, own.requires_grad_(False))

    with (
        patch.object(jsd_guidance, "load_prior", lambda *a, **k: LatentPrior(unet, schedule, vae)),
        patch.object(multiview_energy, "load_prior", load_multiview),
        patch.object(multiview_energy, "has_part", lambda name, part, key: part == "vae"),
    ):
        guidance = jsd_guidance.JSDGuidance(block)
    guidance.do_update_step(0, case.step)
    guidance.min_step = guidance.max_step = case.t
    with given_noise():
        return distil(guidance, inputs(case))


class Authors:
    """The checkout's guidance, without what loads models from the hub.

    Args:
        exact: of reduced width and in float64, to be compared; else as the authors run it, at full
            size and with random weights, to be timed.
    """

    def __init__(self, root: str | Path, exact: bool = True) -> None:
        folder, size = Path(root) / "extern" / "MVDream", "reduced" if exact else "full"
        self._mv_unet = mvdream.build_reference(folder, "mvdream-sd21", size, exact)
        self._mv_vae = mvdream.build_reference(folder, "mvdream-vae", size, exact)
        if exact:
            models = self._mv_unet, self._mv_vae
            self.mv_unet, self.mv_vae = (fill_module(model, SEED) for model in models)
        with importing_from(folder, bare=["mvdream"]):
            self._interface = importlib.import_module("mvdream.ldm.interface")
            self._cameras = importlib.import_module("mvdream.camera_utils")
        # the VAE was imported apart, and so was the class of what it returns
        dtype = torch.float64 if exact else torch.float32
        posterior = type(self._mv_vae.encode(torch.zeros(1, 3, 32, 32, dtype=dtype)))
        self._interface.DiagonalGaussianDistribution = posterior
        packages = ["threestudio.models", "threestudio.models.guidance"]
        packages += ["threestudio.models.prompt_processors", "threestudio.utils"]
        with importing_from(root, bare=packages, stubs=self._stubs()):
            self._module = importlib.import_module(
                "threestudio.models.guidance.interview_diffusion_guidance_mvdream"
            )
        if exact:
            self._module.F = SimpleNamespace(mse_loss=F.mse_loss, interpolate=_smaller)

    def _stubs(self) -> dict[str, dict[str, Any]]:
        class BaseObject:
            @dataclass
            class Config:
                pass

        typing = vars(importlib.import_module("typing")) | vars(
            importlib.import_module("jaxtyping")
        )
        public = {name: value for name, value in typing.items() if not name.startswith("_")}
        nothing = dict.fromkeys(("C", "cleanup", "parse_version"))
        return {
            "threestudio": {"register": lambda name: lambda cls: cls},
            "threestudio.utils.base": {"BaseObject": BaseObject},
            "threestudio.utils.misc": nothing,
            "threestudio.utils.ops": {"perpendicular_component": None},
            "threestudio.utils.typing": public | {"Tensor": Tensor},
            "threestudio.models.prompt_processors.base": {"PromptProcessorOutput": object},
            "mvdream.model_zoo": {"build_model": None},
            "mvdream.camera_utils": vars(self._cameras),
            "mvdream": {},
        }

    def run(self, case: Case) -> dict[str, Tensor]:
        guidance = self.guidance(*stable_diffusion(), case)
        with given_noise(self._interface.DiagonalGaussianDistribution):
            return distil(guidance, inputs(case), global_step=case.step)

    def guidance(
        self, unet: UNet2DConditionModel, vae: AutoencoderKL, scheduler: DDIMScheduler, case: Case
    ) -> Any:
        """Their guidance with these models, on their device and in their precision."""
        guidance = object.__new__(self._module.InterViewDiffusionGuidance)
        alphas = scheduler.alphas_cumprod.to(unet.device)
        alphas = alphas.double() if unet.dtype == torch.float64 else alphas
        vars(guidance).update(
            cfg=_authors_settings(case),
            device=unet.device,
            weights_dtype=unet.dtype,
            unet=unet,
            vae=vae,
            scheduler=scheduler,
            alphas=alphas,
            sigmas=(1 - alphas) ** 0.5,
            grad_clip_val=None,
            min_step=case.t,
            max_step=case.t,
            guidance_model=self._multiview(scheduler, unet.device, unet.dtype),
        )
        return guidance

    def _multiview(
        self, scheduler: DDIMScheduler, device: torch.device, dtype: torch.dtype
    ) -> nn.Module:
        model = self._module.MVDreamGuidance.__new__(self._module.MVDreamGuidance)
        nn.Module.__init__(model)
        identity = {"target": "torch.nn.Identity"}
        model.model = self._interface.LatentDiffusionInterface(identity, identity, identity)
        model.model.model.diffusion_model = self._mv_unet
        model.model.first_stage_model = self._mv_vae
        a = scheduler.alphas_cumprod.double()  # which it rounds to float32, one by one
        buffers = {
            "sqrt_alphas_cumprod": a.sqrt(),
            "sqrt_one_minus_alphas_cumprod": (1 - a).sqrt(),
            "sqrt_recip_alphas_cumprod": (1 / a).sqrt(),
            "sqrt_recipm1_alphas_cumprod": (1 / a - 1).sqrt(),
        }
        model.device = device
        model.weights_dtype = dtype if dtype == torch.float64 else torch.float32
        for name, values in buffers.items():
            model.model.register_buffer(name, values.to(model.weights_dtype))
        model.cfg = SimpleNamespace(
            n_view=4, recon_std_rescale=0.5, camera_condition_type="rotation", guidance_scale=50.0
        )
        return model.to(device).eval().requires_grad_(False)


def _authors_settings(case: Case) -> SimpleNamespace:
    """What the authors' own configs give at this step, of what the call reads."""
    keys = ("guidance_scale", "extra_guid_wt", "start_iter", "cfg_rescale")
    stages = {"": (30, 5, 600, 0.0), "-refine": (50, 0, 600, 0.0), "-dmtet": (70, 5, 0, 0.7)}
    return SimpleNamespace(
        guide="given",
        guidance_type="sds",
        weighting_strategy="dreamfusion",
        view_dependent_prompting=True,
        **dict(zip(keys, stages[case.stage], strict=True)),
    )


def _smaller(x: Tensor, size: Any, **kwargs: Any) -> Tensor:
    """Resizes to a quarter where the authors resize to 512 or 256 pixels."""
    return F.interpolate(x, [PIXELS.get(side, side) for side in size], **kwargs)


def compare_with_fixture(case: str, changes: dict | None = None) -> dict[str, float]:
    """Relative errors of our loss and gradient against the digests of the authors' results."""
    fixture = json.loads(FIXTURE.read_text())
    weights = (fill(fixture["shapes"][part], SEED) for part in ("unet", "vae"))
    ours = run_ours(CASES[case], *weights, changes)
    return digest_errors(ours, fixture["cases"][case])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity.authors")
    parser.add_argument("--write-fixture", action="store_true", help="anew from the checkout")
    args = parser.parse_args()
    root = os.environ.get(ENVIRONMENT)
    if args.write_fixture and root is None:
        parser.error(f"--write-fixture needs {ENVIRONMENT}")
    authors = Authors(root) if root else None
    against = ENVIRONMENT if root else "fixture"
    print(f"{'case':34}{'against':20}{'loss':>10}{'gradient':>10}  passes")
    results, passes = {}, []
    for name, case in CASES.items():
        if authors is None:
            errors = compare_with_fixture(name)
        else:
            results[name] = authors.run(case)
            ours = run_ours(case, authors.mv_unet, authors.mv_vae)
            errors = relative_errors(ours, results[name])
        passes.append(max(errors.values()) < TARGET)
        numbers = f"{errors['loss']:10.1e}{errors['gradient']:10.1e}"
        print(f"{name:34}{against:20}{numbers}  {passes[-1]}", flush=True)
    if args.write_fixture:
        weights = {"unet": authors.mv_unet, "vae": authors.mv_vae}
        shapes = {part: shapes_of(tensors) for part, tensors in weights.items()}
        cases = {case: digests(tensors) for case, tensors in results.items()}
        write_fixture(FIXTURE, source=SOURCE, shapes=shapes, cases=cases)
    return 0 if all(passes) else 1


if __name__ == "__main__":
    sys.exit(main())
