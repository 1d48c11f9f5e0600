"""Where a training step's time goes, phase by phase, and what each way of saving some gives.

    python benchmarks/step_profile.py --random full --out outputs/profile     # on a GPU
    python benchmarks/step_profile.py --out outputs/profile                   # the tiny priors

`steps.csv` has time and memory of a step of JSD at either resolution of the config: as it is, with
`memory: low` in 7.3 GiB, SDS, each way left out or added by itself, and everything plain.
`phases.csv` has a row a phase of the step as it is, and with `memory: low`: milliseconds on the GPU
(kernels and copies), milliseconds until the next phase began on the CPU, kernels launched, and how
often and how long the CPU waited for the GPU. `kernels.csv` has the largest kernels of each.
`agreement.csv` says how far fused kernels and `memory: low` change latents, predictions and
gradients, in the renders and in all parameters, in half precision, as 1 - cosine.
"""

import argparse
import csv
import gc
import json
import logging
import os
import random
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.measure import device_name, load_host, synchronize
from benchmarks.training_step import PROMPT, ROOT, random_priors

CUDA = torch.cuda.is_available()
WARM_UP, TIMED, PROFILED = (4, 8, 3) if CUDA else (1, 1, 1)  # steps
MARK = "phase: "
SYNCS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
CASES = {"8 x 64 px": (8, 64), "4 x 256 px": (4, 256)}
NO_GRAPHS = ["system.guidance.cuda_graphs=false", "system.guidance.energy.cuda_graphs=false"]
NOT_FUSED = ["system.optimizer.args.fused=false"]
COMPILE = ["system.guidance.compile=true", "system.guidance.energy.compile=true"]
LOSS_SCALE = 2.0**16 if CUDA else 1.0  # as the trainer begins with
LOW, LOW_GIB = "memory: low", 7.3
TABLES = ("as it is", LOW)  # have their phases taken apart
FIXED = "fixed memory segments"  # of PyTorch's allocator, which a process chooses once
SETTINGS = {  # overrides, in the order in which they run
    "as it is": [],
    LOW: ["system.guidance.memory=low"],
    "SDS": ["system.guidance.energy_weight=0.0"],
    "no fused blocks": [],
    "no CUDA graphs": NO_GRAPHS,
    "field not fused": [],
    "normals by autograd": [],
    "all of the box marched": [],
    "grid levels one by one": [],
    "grid gradients apart": [],
    "AdamW not fused": NOT_FUSED,
    "cudnn.benchmark": [],
    "plain": [*NO_GRAPHS, *NOT_FUSED],
    "compile": COMPILE,
    FIXED: [],
}


@contextmanager
def patched(setting: str) -> Iterator[None]:
    """What of a setting no key says."""
    from threestudio.models import fused_field, networks
    from threestudio.models.renderers import marching
    from threestudio_jointdreamer.priors import loading

    patches = {
        "no fused blocks": (loading, "fuse_on_gpu", lambda model: model),
        "field not fused": (fused_field, "kernels_work", lambda weight: False),
        "normals by autograd": (networks.CompositeEncoding, "has_input_gradient", False),
        "all of the box marched": (
            marching,
            "_occupied_box",
            lambda estimator, margin: estimator.aabbs[0].view(2, 3),
        ),
    }
    if CUDA:
        from tinycudann import encoding, grid_fast, grid_triton

        def apart(grad, x, params, layout, encoded):
            return grid_fast.grid_input_gradient(grad, x, params, layout)

        patches["grid gradients apart"] = (encoding, "grid_input_gradient", apart)
        patches["grid levels one by one"] = (grid_triton, "_TOGETHER", 1)
    with ExitStack() as stack:
        for name, (owner, attribute, value) in patches.items():
            if setting in (name, "plain"):
                stack.enter_context(patch.object(owner, attribute, value))
        if setting == "cudnn.benchmark":
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=True))
        yield


def mark(phase: str) -> None:
    with record_function(MARK + phase):
        pass


def marked(owner: object, name: str, phase: str, after: str) -> None:
    """Has `owner.name` marked where it begins and ends."""
    function = getattr(owner, name)

    def call(*args, **kwargs):
        mark(phase)
        out = function(*args, **kwargs)
        mark(after)
        return out

    object.__setattr__(owner, name, call)


class Phases(pl.Callback):
    """Times steps and, given a path for a trace, marks their phases and profiles some more."""

    def __init__(self, trace: Path | None) -> None:
        self.trace = trace
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * CUDA
        self.profiler = profile(activities=activities)
        self.ms = self.began = 0.0
        self.in_backward = False

    def on_train_start(self, trainer, system) -> None:
        if self.trace is None:
            return
        guidance, renderer = system.guidance, system.renderer
        if hasattr(renderer, "_sample"):
            marked(renderer, "_sample", "renderer: march, visibility", "renderer: forward")
        marked(guidance.prior, "encode", "VAE: forward", "guidance: other")
        marked(guidance.prior, "predict_noise", "UNet", "guidance: other")
        marked(guidance.prior, "features_gradient", "VAE: again, backward", "losses: backward")
        if hasattr(guidance.energy, "model"):
            energy = guidance.energy
            marked(energy, "_encode", "multi-view: VAE", "guidance: other")
            marked(energy.model, "predict_noise", "multi-view: UNet", "guidance: other")
        distil, forward, render = guidance.distil, system.forward, renderer.forward

        def distilled(*args, **kwargs):
            x, *others = distil(*args, **kwargs)
            x.register_hook(lambda grad: mark("VAE: backward"))
            return x, *others

        def rendered(batch):
            mark("renderer: forward")
            out = forward(batch)
            out["comp_rgb"].register_hook(lambda grad: mark("renderer: backward"))
            mark("guidance: other")
            return out

        def again(**batch):
            if not self.in_backward:
                return render(**batch)
            mark("renderer: again")
            out = render(**batch)
            mark("renderer: backward")
            return out

        guidance.distil, system.forward = distilled, rendered
        object.__setattr__(renderer, "forward", again)

    def on_train_batch_start(self, trainer, system, batch, index) -> None:
        if index == WARM_UP:
            synchronize()
            self.began = time.perf_counter()
        if index == WARM_UP + TIMED:
            self._take_time()
            self.profiler.start()
        mark("step: update, data")

    def on_before_backward(self, *args) -> None:
        self.in_backward = True
        mark("losses: backward")

    def on_after_backward(self, *args) -> None:
        self.in_backward = False
        mark("optimizer")

    def _take_time(self) -> None:
        synchronize()
        self.ms = 1000 * (time.perf_counter() - self.began) / TIMED

    def on_train_batch_end(self, trainer, system, outputs, batch, index) -> None:
        mark("step: update, data")
        if self.trace is None and index == WARM_UP + TIMED - 1:
            self._take_time()
        if index == WARM_UP + TIMED + PROFILED - 1:
            mark("step: wait for the GPU")
            synchronize()
            mark("end")
            self.profiler.stop()
            self.profiler.export_chrome_trace(str(self.trace))


def read_phases(trace: Path, case: dict) -> tuple[list[dict], list[dict]]:
    """Rows of phases.csv and of kernels.csv: kernels count where they were launched."""
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e.get("ph") == "X"]
    marks = sorted((e["ts"], e["name"]) for e in events if e["name"].startswith(MARK))
    names = list(dict.fromkeys(name for _, name in marks))
    phases = {name: defaultdict(float) for name in names}
    kernels: dict = defaultdict(float)

    def phase_at(ts: float) -> str:
        low, high = 0, len(marks)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if marks[middle][0] <= ts else (low, middle)
        return marks[low][1]

    for (ts, name), (end, _) in zip(marks, marks[1:], strict=False):
        phases[name]["cpu_ms"] += (end - ts) / 1000
    runtime = [e for e in events if e.get("cat") in ("cuda_runtime", "cuda_driver")]
    launched = {e["args"]["correlation"]: e["ts"] for e in runtime}
    for e in runtime:
        if e["name"] in SYNCS:
            phases[phase_at(e["ts"])]["syncs"] += 1
            phases[phase_at(e["ts"])]["wait_ms"] += e["dur"] / 1000
    for e in events:
        if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            phase = phase_at(launched.get(e["args"].get("correlation"), e["ts"]))
            phases[phase]["gpu_ms"] += e["dur"] / 1000
            phases[phase]["launches"] += 1
            kernels[phase, e["name"][:110]] += e["dur"] / 1000
    rows = []
    for name in names[:-1]:
        row = case | {"phase": name.removeprefix(MARK)}
        for key in ("gpu_ms", "cpu_ms", "launches", "syncs", "wait_ms"):
            row[key] = round(phases[name][key] / PROFILED, 2)
        rows.append(row)
    rows.append(case | {"phase": "sum"} | {k: round(sum(r[k] for r in rows), 2)
                                                 for k in list(rows[0])[3:]})  # fmt: skip
    largest = []
    for name in names[:-1]:
        own = sorted(((ms, k) for (phase, k), ms in kernels.items() if phase == name), reverse=True)
        for ms, kernel in own[:14]:
            entry = case | {"phase": name.removeprefix(MARK), "kernel": kernel}
            largest.append(entry | {"ms": round(ms / PROFILED, 3)})
    return rows, largest


def run(case: str, setting: str, config: str, overrides: list[str], folder: Path):
    """The system after it, a row of steps.csv, and for `TABLES` rows of the other two."""
    import threestudio
    from threestudio.utils.config import load_config

    views, size = CASES[case]
    overrides = [*overrides, *SETTINGS[setting]]
    if CUDA:
        overrides += [f"data.batch_size={views}", "data.resolution_milestones=[]"]
        overrides += [f"data.width={size}", f"data.height={size}"]
        torch.cuda.reset_peak_memory_stats()
        total = torch.cuda.get_device_properties(0).total_memory
        share = LOW_GIB * 2**30 / total if setting == LOW else 1.0
        torch.cuda.set_per_process_memory_fraction(share)
    level = logging.INFO if setting == LOW else logging.WARNING
    logging.getLogger("pytorch_lightning").setLevel(level)  # which says the chunks
    cfg = load_config(config, cli_args=overrides, n_gpus=int(CUDA))
    pl.seed_everything(cfg.seed)
    phases = Phases(folder / "trace.json" if setting in TABLES else None)
    trainer = pl.Trainer(
        max_steps=WARM_UP + TIMED + PROFILED * (phases.trace is not None),
        accelerator="gpu" if CUDA else "cpu",
        devices=1,
        precision=cfg.trainer.get("precision", "32-true") if CUDA else "32-true",
        callbacks=[phases],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    began = time.perf_counter()
    with patched(setting):
        system = threestudio.find(cfg.system_type)(cfg.system)
        system.set_save_dir(str(folder / "save"))
        trainer.fit(system, datamodule=threestudio.find(cfg.data_type)(cfg.data))
    about = {"case": case, "setting": setting}
    step = about | {"ms": round(phases.ms, 1), "warm_up_s": round(phases.began - began, 1)}
    if CUDA:
        step["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        step["reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    tables = read_phases(phases.trace, about) if phases.trace else ([], [])
    return system, step, *tables


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double().flatten(), b.detach().double().flatten()
    return float(torch.dot(a, b) / (a.norm() * b.norm()))


def agreement(system) -> Iterator[dict]:
    """Fused blocks and field against the plain ones, and `memory: low` against the default."""
    from threestudio_jointdreamer.priors import loading

    guidance, name = system.guidance, system.guidance.cfg.pretrained_model_name_or_path
    with patch.object(loading, "fuse_on_gpu", lambda model: model):
        plain = loading.load_prior(name, guidance.device, vae_from=name)
    draw = {"device": guidance.device, "generator": torch.Generator(guidance.device).manual_seed(0)}
    rgb = torch.rand(4, 3, 64, 64, **draw).requires_grad_()
    weights, latents = (torch.randn(4, 4, *[plain.latent_size] * 2, **draw) for _ in range(2))
    text = torch.randn(4, 77, plain.text_dim, **draw)

    def of(prior) -> dict[str, Tensor]:
        torch.manual_seed(0)
        x = prior.encode(rgb)
        (gradient,) = torch.autograd.grad((x * weights).sum(), rgb)
        with torch.no_grad():
            eps = prior.predict_noise(latents, torch.full((4,), 500, device=rgb.device), text)
        return {"VAE: latents": x, "VAE: gradient": gradient, "UNet": eps}

    found = of(guidance.prior)
    for name, expected in of(plain).items():
        yield {"what": name, "1 - cosine": f"{1 - cosine(found[name], expected):.1e}"}
    system.to(guidance.device)  # from where Lightning has put it
    system.renderer.cfg.randomized = False  # so that chunks march the same rays
    fused = step_gradients(system)
    own, guidance.prior = guidance.prior, plain
    plain = step_gradients(system)
    guidance.prior = own
    with patched("field not fused"):
        apart = step_gradients(system)
    guidance.cfg.memory, guidance.cfg.encode_chunk, system.cfg.render_chunk = "low", 1, 2**14
    low = step_gradients(system)
    for what, other in (("fused blocks", plain), ("fused field", apart), (LOW, low)):
        for name, value in fused.items():
            difference = f"{1 - cosine(other[name], value):.1e}"
            yield {"what": f"{what}: gradient in {name}", "1 - cosine": difference}


def step_gradients(system) -> dict[str, Tensor]:
    """Of a training step's loss, in the renders and in all parameters, from one random state."""
    gradients = {}
    forward = type(system).forward

    def rendered(batch):
        out = forward(system, batch)
        out["comp_rgb"].register_hook(lambda grad: gradients.update({"the renders": grad}))
        return out

    seed_all()
    batch = next(iter(system.trainer.train_dataloader))
    batch = system.transfer_batch_to_device(batch, system.device, 0)
    scale = LOSS_SCALE
    while True:
        system.zero_grad()
        seed_all()
        with (
            patch.object(system, "forward", rendered),
            torch.autocast(system.device.type, torch.float16, enabled=CUDA),
        ):
            loss = system.training_step(batch, 0)["loss"]
        (loss * scale).backward()
        trained = [p.grad.flatten() for p in system.parameters() if p.grad is not None]
        found = gradients | {"all parameters": torch.cat(trained)}
        if scale < 1 or all(gradient.isfinite().all() for gradient in found.values()):
            return found
        scale /= 4  # as the trainer's, until nothing overflows


def seed_all() -> None:
    random.seed(0)
    torch.manual_seed(0)


def write(path: Path, rows: list[dict]) -> None:
    if not rows:
        return
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", choices=["full"], help="random weights of that size")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--priors", type=Path, help="a folder that keeps them for other calls")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--budget", type=float, default=600, help="seconds, for what begins")
    return parser.parse_args()


def main() -> None:
    args, began = parse_arguments(), time.perf_counter()
    warnings.filterwarnings("ignore", ".*")
    warnings.filterwarnings("always", "(?s).*(CUDA graphs|Triton)")  # ours: what does not serve
    if args.settings == [FIXED]:
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:False"
    load_host()
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"{device_name()}, torch {torch.__version__}")
    config = str(ROOT / f"configs/{'' if args.random else 'tiny/'}jointdreamer.yaml")
    tables: dict[str, list[dict]] = {name: [] for name in ("steps", "phases", "kernels")}
    runs = [
        (c, s) for s in args.settings for c in args.cases if s != FIXED or s == args.settings[0]
    ]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        overrides = [PROMPT, "system.guidance_eval_step=0", f"exp_root_dir={folder}"]
        overrides += ["system.guidance.energy_weight=0.3125"]
        priors = args.priors or folder
        overrides += random_priors(priors) if args.random else []
        for case, setting in runs:
            if time.perf_counter() - began > args.budget:
                print(f"{case}, {setting}: no time left")
                continue
            try:
                system, *found = run(case, setting, config, overrides, folder)
            except Exception as error:  # the others may work
                reason = " ".join(str(error).split())[:300]
                print(f"{case}, {setting}: {type(error).__name__}: {reason}", flush=True)
                continue
            for table, rows in zip(tables.values(), [[found[0]], *found[1:]], strict=True):
                table += rows
            for name, rows in tables.items():
                write(args.out / f"{name}.csv", rows)
            print(f"{time.perf_counter() - began:5.0f} s  {found[0]}", flush=True)
            for row in found[1]:
                print("   ".join(str(value).rjust(9) for value in row.values()), flush=True)
            if setting == "as it is" and case == args.cases[-1]:
                rows = []
                for row in agreement(system):
                    print(row, flush=True)
                    rows.append(row)
                    write(args.out / "agreement.csv", rows)
            system = None
            gc.collect()
            if CUDA:
                torch.cuda.empty_cache()
    print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
