"""What the runs of configs/mixed are made of: overrides, threestudio's own guidance, logs."""

import importlib
import importlib.util
import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from helpers.full_size import Pipelines
from helpers.real_threestudio import ROOT, Launched
from omegaconf import DictConfig, OmegaConf

CONFIGS = ROOT / "configs" / "mixed"
MVDREAM_STAND_IN = ROOT / "tests" / "helpers" / "mvdream_stand_in"
WARM_UP = 5  # steps that are not timed
LAMBDA = 0.3125  # of the recipe, from the first step on
SHARED = (  # what both guidances call by one name
    "pretrained_model_name_or_path",
    "guidance_scale",
    "weighting_strategy",
    "min_step_percent",
    "max_step_percent",
)
FP32 = ["trainer.precision=32", "system.guidance.half_precision_weights=false"]
SAME_FORMULA = ["data.n_view=1", *FP32]  # a timestep for each view, and exact arithmetic


@dataclass(frozen=True)
class Mixed:
    """A config of configs/mixed.

    Attributes:
        original: the config of threestudio, or of an extension, that it was made from.
        extensions: those of `helpers.real_threestudio.EXTENSIONS` that it needs.
        their_guidance: keys of stable-diffusion-guidance that stand for `weighting_strategy`.
        note: what the table says of it.
    """

    name: str
    original: str
    extensions: tuple[str, ...] = ()
    their_guidance: dict = field(default_factory=dict)
    note: str = ""

    @property
    def path(self) -> Path:
        return CONFIGS / f"{self.name}.yaml"

    @property
    def system(self) -> str:
        return OmegaConf.load(self.path).system_type


MIXED = (
    Mixed("dreamfusion", "configs/dreamfusion-sd.yaml"),
    Mixed("magic3d-coarse", "configs/magic3d-coarse-sd.yaml"),
    Mixed(
        "latentnerf",
        "configs/latentnerf.yaml",
        note="renders latents, decoded once a step for the multi-view prior",
    ),
    Mixed(
        "sjc",
        "configs/sjc.yaml",
        their_guidance={"use_sjc": True, "var_red": True},
        note="renders latents; SJC with variance reduction is SDS with w(t) = 1",
    ),
    Mixed(
        "mvdream",
        "custom/threestudio-mvdream/configs/mvdream-sd21.yaml",
        extensions=("mvdream",),
        note="the extension needs the package mvdream only to be imported",
    ),
    Mixed(
        "gaussian-splatting",
        "custom/threestudio-3dgs/configs/gaussian_splatting.yaml",
        extensions=("3dgs",),
        note="diff-gaussian-rasterization as it is; its licence is for research and evaluation",
    ),
)


def overrides(priors: Pipelines, steps: int) -> list[str]:
    """A run of `steps` steps with these priors, as it is but for smaller pictures at its end."""
    made = [
        "system.prompt_processor.prompt=a red bear",
        "system.prompt_processor.negative_prompt=a cube",  # threestudio cuts no long prompts
        f"system.guidance.pretrained_model_name_or_path={priors.stable_diffusion}",
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={steps}",
        "checkpoint.save_weights_only=true",  # threestudio's schedulers keep classes of its own
        "data.eval_width=64",
        "data.eval_height=64",
        "data.n_val_views=1",
        "data.n_test_views=2",  # threestudio crosses the wrong axes of 3
    ]
    if importlib.util.find_spec("accelerate") is None:  # threestudio's processor cannot do without
        made.append("system.prompt_processor_type=jointdreamer-prompt-processor")
    return made


def with_energy(priors: Pipelines, energy_weight: float = LAMBDA) -> list[str]:
    """The energy's prior, and λ from the first step on."""
    return [
        f"system.guidance.energy.pretrained_model_name_or_path={priors.mvdream}",
        f"system.guidance.energy_weight={energy_weight}",
    ]


def environment(mixed: Mixed) -> dict[str, str]:
    """threestudio-mvdream imports the package `mvdream`; where that fails, a stand-in serves."""
    if "mvdream" not in mixed.extensions:
        return {}
    try:
        importlib.import_module("mvdream.model_zoo")
    except ImportError:  # it is not here, or what it imports is not
        path = [str(MVDREAM_STAND_IN), os.environ.get("PYTHONPATH", "")]
        return {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    return {}


def with_their_guidance(mixed: Mixed, folder: Path) -> Path:
    """A copy of the config with stable-diffusion-guidance, all else as it is."""
    cfg = OmegaConf.load(mixed.path)
    system: DictConfig = cfg.system
    ours = system.guidance
    theirs = {key: OmegaConf.to_container(ours)[key] for key in SHARED}
    if mixed.their_guidance:
        del theirs["weighting_strategy"]
    system.guidance_type = "stable-diffusion-guidance"
    system.guidance = theirs | mixed.their_guidance
    path = folder / f"{mixed.name}-sds.yaml"
    OmegaConf.save(cfg, path)
    return path


def differences(mixed: Mixed, view: Path) -> set[str]:
    """Keys of the original's system and trainer that the config changes or leaves out.

    Args:
        view: a checkout with the config's extensions in custom/.
    """
    theirs, ours = (
        _flat(OmegaConf.to_container(OmegaConf.load(path)))
        for path in (view / mixed.original, mixed.path)
    )
    keys = {key for key in theirs if key.startswith(("system", "trainer"))}
    return {key for key in keys if ours.get(key) != theirs[key]}


def _flat(cfg: dict, prefix: str = "") -> dict[str, object]:
    """A raw config's leaves by their whole keys."""
    flat: dict[str, object] = {}
    for key, value in cfg.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


@dataclass
class Log:
    """What a run logged at each step.

    Attributes:
        loss: `loss_sds` as the guidance returned it.
        energy_grad_norm: ‖∂C/∂x_t‖; empty without an energy.
        seconds: the median time from one step to the next; None for runs too short.
    """

    loss: list[float]
    energy_grad_norm: list[float]
    seconds: float | None


def read_log(launched: Launched) -> Log:
    """Reads the CSV and TensorBoard logs that threestudio writes at every step."""
    log = launched.numbers
    loss, norms = (log.get(f"train/{name}", {}) for name in ("loss_sds", "energy_grad_norm"))
    seconds = _seconds_per_step(launched.trial_dir / "tb_logs")
    return Log(list(loss.values()), list(norms.values()), seconds)


def _seconds_per_step(folder: Path) -> float | None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    times = []
    for version in sorted(folder.iterdir()):
        events = EventAccumulator(str(version), size_guidance={"scalars": 0}).Reload()
        if "train/loss_sds" in events.Tags()["scalars"]:
            times += [event.wall_time for event in events.Scalars("train/loss_sds")]
    times = times[WARM_UP:]
    steps = [late - early for early, late in zip(times, times[1:], strict=False)]
    return statistics.median(steps) if steps else None


def relative_difference(a: float, b: float) -> float:
    return abs(a - b) / abs(b)
