"""Runs the real threestudio, from a view of its checkout that leaves the checkout untouched."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from jointdreamer.runs import Run

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = "THREESTUDIO_ROOT"
EXTENSIONS = {"mvdream": "THREESTUDIO_MVDREAM", "3dgs": "THREESTUDIO_3DGS"}
WRITABLE = ("configs", "custom", "load")  # folders that `jointdreamer install` adds to
SECONDS = 540  # of one launch
INSTALL = "import sys; from jointdreamer.cli import main; sys.exit(main())"  # the command
TAIL = 6000  # characters of a log that a failure shows

PROMPT = "a blue cat wearing a red hat"
TINY = [  # what every config of ours has
    f"system.prompt_processor.prompt={PROMPT}",
    "system.prompt_processor.pretrained_model_name_or_path=load/tiny/stable-diffusion",
    "system.guidance.pretrained_model_name_or_path=load/tiny/stable-diffusion",
    "data.batch_size=4",
    "data.width=64",
    "data.height=64",
    "data.resolution_milestones=[]",
    "data.eval_width=64",
    "data.eval_height=64",
    "data.n_val_views=4",
    "data.n_test_views=9",
    "trainer.log_every_n_steps=1",
]
TINY_ENERGY = ["system.guidance.energy.pretrained_model_name_or_path=load/tiny/mvdream"]
TINY_VOLUME = [  # for implicit-volume in nerf-volume-renderer
    "system.geometry.pos_encoding_config.n_levels=4",
    "system.geometry.pos_encoding_config.log2_hashmap_size=15",
    "system.geometry.pos_encoding_config.base_resolution=8",
    "system.geometry.pos_encoding_config.per_level_scale=2.0",
    "system.renderer.num_samples_per_ray=64",
]


def tiny_overrides(n_steps: int, energy: bool = True, volume: bool = True) -> list[str]:
    """Turns a full-size config into a run of `n_steps` steps with the tiny world's priors.

    Args:
        energy: the config has jsd-multiview-energy.
        volume: the config has implicit-volume in nerf-volume-renderer.
    """
    overrides = [*TINY, f"trainer.max_steps={n_steps}", f"trainer.val_check_interval={n_steps}"]
    overrides += [f"checkpoint.every_n_train_steps={n_steps}"]
    return overrides + TINY_ENERGY * energy + TINY_VOLUME * volume


def find_checkout() -> Path | str:
    """The checkout that THREESTUDIO_ROOT names, or the reason why there is none."""
    root = os.environ.get(CHECKOUT)
    if not root:
        return f"{CHECKOUT} is not set: it names a checkout of threestudio 0.2.3."
    if not (Path(root) / "threestudio" / "__init__.py").is_file():
        return f"{CHECKOUT}={root} holds no threestudio/__init__.py."
    return Path(root).resolve()


def make_view(checkout: Path, target: Path, extensions: Iterable[str] = ()) -> Path:
    """A folder that looks like `checkout` with our extension installed, made of links.

    launch.py is a copy, since Python looks for modules beside the file that a link points to.

    Args:
        extensions: names of EXTENSIONS, linked into custom/ beside ours.
    """
    target.mkdir(parents=True)
    for entry in checkout.iterdir():
        if entry.name in WRITABLE:
            (target / entry.name).mkdir()
            for item in entry.iterdir():
                (target / entry.name / item.name).symlink_to(item)
        elif entry.name not in (".git", "outputs", "__pycache__", "launch.py"):
            (target / entry.name).symlink_to(entry)
    shutil.copy(checkout / "launch.py", target / "launch.py")
    (target / "custom").mkdir(exist_ok=True)
    (target / "load").mkdir(exist_ok=True)
    install(target)
    for name in extensions:
        folder = os.environ.get(EXTENSIONS[name])
        if not folder or not (Path(folder) / "__init__.py").is_file():
            pytest.skip(f"{EXTENSIONS[name]} names no checkout of threestudio-{name}: {folder!r}.")
        (target / "custom" / f"threestudio-{name}").symlink_to(Path(folder).resolve())
    return target


def install(view: Path) -> None:
    """`jointdreamer install --threestudio view`."""
    command = [sys.executable, "-c", INSTALL, "install", "--threestudio", str(view)]
    environment = {key: value for key, value in os.environ.items() if key != CHECKOUT}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@dataclass
class Launched:
    """A launch.py that ended well.

    Attributes:
        log: what it printed, both streams.
        outputs: its `exp_root_dir`.
    """

    log: str
    seconds: float
    outputs: Path

    @property
    def trial_dir(self) -> Path:
        """The newest run's folder below `outputs`."""
        runs = [path for path in self.outputs.glob("*/*") if path.is_dir()]
        assert runs, f"no run in {self.outputs}; the log ends:\n{self.log[-TAIL:]}"
        return max(runs, key=lambda run: run.stat().st_ctime_ns)

    @property
    def save_dir(self) -> Path:
        return self.trial_dir / "save"

    @property
    def ckpt(self) -> Path:
        return self.trial_dir / "ckpts" / "last.ckpt"

    @property
    def numbers(self) -> dict[str, dict[int, float]]:
        """All that it logged, by name and step."""
        return {name: dict(series) for name, series in Run(self.trial_dir).metrics().items()}


def run_launch(
    args: Sequence[str],
    cwd: Path,
    outputs: Path,
    launcher: str = "launch.py",
    env: dict[str, str | None] | None = None,
    fails: bool = False,
) -> Launched:
    """`python launch.py` with `args` in `cwd`; a failure shows the end of its log.

    Args:
        outputs: where runs go, unless `args` has exp_root_dir=.
        env: changes to the environment; None removes a variable.
        fails: it is to fail; the log is what is wanted.
    """
    args = [str(arg) for arg in args]
    named = [arg.partition("=")[2] for arg in args if arg.startswith("exp_root_dir=")]
    if named:
        outputs = Path(cwd, named[-1])
    else:
        args.append(f"exp_root_dir={outputs}")
    quiet = {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}  # the log's end is what matters
    environment = os.environ | quiet | (env or {})
    environment = {key: value for key, value in environment.items() if value is not None}
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, launcher, *args],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
        )
        code, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as expired:
        code, output = None, expired.stdout or b""
    seconds = time.perf_counter() - start
    log = output.decode(errors="replace")
    log = re.sub(r"[^\n]*\r(?!\n)", "", log)  # progress bars as they were last seen
    if code is None or (code == 0) == fails:
        ended = f"did not end in {SECONDS} s" if code is None else f"ended with {code}"
        command = " ".join([launcher, *args])
        pytest.fail(f"{command}\n{ended}; its log ends:\n{log[-TAIL:]}", pytrace=False)
    return Launched(log, seconds, outputs)
