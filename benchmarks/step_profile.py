"""Where a training step's time goes, phase by phase, and what changes to its parts give.

    python benchmarks/step_profile.py --random full --out outputs/profile     # on a GPU
    python benchmarks/step_profile.py --out outputs/profile                   # the tiny priors

`steps.csv` has the time and memory of a step of JSD at either resolution: as it is, in
plain PyTorch (without fused blocks, CUDA graphs and the fused optimizer), and with `memory: low` in
7.3 GiB. `phases.csv` has a row a phase of it: milliseconds on the GPU (kernels and copies),
milliseconds until the next phase began on the CPU, kernels launched, and how often and how long the
CPU waited for the GPU, a step. `kernels.csv` has the largest kernels of each phase. `variants.csv`
has parts of the step, changed in one way each: milliseconds, memory, and how far the cosine of its
results with the plain part's is from 1.
"""

import argparse
import csv
import gc
import json
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from itertools import product
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
LOW_GIB = 7.3
SETTINGS = {  # overrides
    "as it is": [],
    "low": ["system.guidance.memory=low"],
    "plain": [
        "system.guidance.cuda_graphs=false",
        "system.guidance.energy.cuda_graphs=false",
        "system.optimizer.args.fused=false",
    ],
}
CASES = {"8 x 64 px": (8, 64), "4 x 256 px": (4, 256)}


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
    """Marks the phases of each step, and profiles the last ones."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * CUDA
        self.profiler = profile(activities=activities)
        self.ms = 0.0

    def on_train_start(self, trainer, system) -> None:
        guidance, renderer = system.guidance, system.renderer
        if hasattr(renderer, "_sample"):
            marked(renderer, "_sample", "renderer: march, visibility", "renderer: forward")
        marked(guidance.prior, "encode", "VAE: forward", "guidance: other")
        marked(guidance.prior, "predict_noise", "UNet", "guidance: other")
        if hasattr(guidance.energy, "model"):
            energy = guidance.energy
            marked(energy, "_encode", "multi-view: VAE", "guidance: other")
            marked(energy.model, "predict_noise", "multi-view: UNet", "guidance: other")
        distil, forward = guidance.distil, system.forward

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

        guidance.distil, system.forward = distilled, rendered

    def on_train_batch_start(self, trainer, system, batch, index) -> None:
        if index == WARM_UP:
            synchronize()
            self.began = time.perf_counter()
            if CUDA:
                torch.cuda.reset_peak_memory_stats()
        if index == WARM_UP + TIMED:
            synchronize()
            self.ms = 1000 * (time.perf_counter() - self.began) / TIMED
            self.profiler.start()
        mark("step: update, data")

    def on_before_backward(self, *args) -> None:
        mark("losses: backward")

    def on_after_backward(self, *args) -> None:
        mark("optimizer")

    def on_train_batch_end(self, trainer, system, outputs, batch, index) -> None:
        mark("step: update, data")
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


def profile_step(case: str, setting: str, config: str, overrides: list[str], folder: Path):
    import threestudio
    from threestudio.utils.config import load_config
    from threestudio_jointdreamer.priors import loading

    views, size = CASES[case]
    if CUDA:
        overrides = [*overrides, f"data.batch_size={views}", "data.resolution_milestones=[]"]
        overrides += [f"data.width={size}", f"data.height={size}"]
    cfg = load_config(config, cli_args=overrides, n_gpus=int(CUDA))
    pl.seed_everything(cfg.seed)
    trace = folder / "trace.json"
    phases = Phases(trace)
    trainer = pl.Trainer(
        max_steps=WARM_UP + TIMED + PROFILED,
        accelerator="gpu" if CUDA else "cpu",
        devices=1,
        precision=cfg.trainer.get("precision", "32-true") if CUDA else "32-true",
        callbacks=[phases],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    system = threestudio.find(cfg.system_type)(cfg.system)
    system.set_save_dir(str(folder / "save"))
    with patch.object(loading, "fuse_on_gpu", loading.fuse_on_gpu if setting != "plain" else id):
        trainer.fit(system, datamodule=threestudio.find(cfg.data_type)(cfg.data))
    about = {"case": case, "setting": setting}
    step = about | {"ms": round(phases.ms, 1)}
    if CUDA:
        step["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        step["reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    print(step, flush=True)
    return system, step, *read_phases(trace, about)


def cosine(a: list[Tensor], b: list[Tensor]) -> float:
    """The smallest of the pairs'."""
    pairs = [(x.double().flatten(), y.double().flatten()) for x, y in zip(a, b, strict=True)]
    return min(float(torch.dot(x, y) / (x.norm() * y.norm())) for x, y in pairs)


class Variants:
    """Times changes of one part against the part as it is."""

    def __init__(self, path: Path, budget: float) -> None:
        self.path, self.until, self.rows = path, time.perf_counter() + budget, []

    def __call__(self, part: str, name: str, build: Callable[[], Callable[[], list]]) -> None:
        """`build` changes the part and returns what runs it; what that returns is compared."""
        if time.perf_counter() > self.until:
            print(f"{part:20}{name:44} no time left", flush=True)
            return
        gc.collect()
        begin = time.perf_counter()
        try:
            function = build()
            for _ in range(3 if CUDA else 1):
                out = function()
            synchronize()
            warm_up = time.perf_counter() - begin
            if CUDA:
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            times = []
            for _ in range(8 if CUDA else 2):
                synchronize()
                start = time.perf_counter()
                out = function()
                synchronize()
                times.append(time.perf_counter() - start)
            out = [x.detach().clone() for x in out]
            if name == "as it is":
                self.reference = out
            entry = {
                "part": part,
                "variant": name,
                "ms": round(1000 * sorted(times)[len(times) // 2], 2),
                "mib": round((torch.cuda.max_memory_allocated() - before) / 2**20) if CUDA else "",
                "1 - cosine": f"{1 - cosine(out, self.reference):.1e}",
                "first_s": round(warm_up, 1),
            }
        except Exception as error:  # a variant that does not work here is a result too
            reason = " ".join(str(error).split())[:160]
            entry = {"part": part, "variant": name, "ms": f"{type(error).__name__}: {reason}"}
            entry |= {"mib": "", "1 - cosine": "", "first_s": round(time.perf_counter() - begin, 1)}
        out = function = None
        print("  ".join(str(v).ljust(w) for v, w in zip(entry.values(), (20, 44, 9, 8, 9, 5),
                                                        strict=True)), flush=True)  # fmt: skip
        self.rows.append(entry)
        write(self.path, self.rows)


def write(path: Path, rows: list[dict]) -> None:
    if not rows:
        return
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def graphed(function: Callable[[], list]) -> Callable[[], list]:
    """`function` as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = function()

    def replay() -> list:
        graph.replay()
        return out

    return replay


def try_vae(variants: Variants, vae, batch: int, size: int, pixels: int) -> None:
    """Forward and backward of the encoder."""
    from threestudio_jointdreamer.priors.fused_resnet import fuse_resnet_blocks
    from threestudio_jointdreamer.priors.latent_prior import resize

    part = f"VAE {batch} x {size} px"
    generator = torch.Generator(vae.device).manual_seed(0)
    rgb = torch.rand(batch, 3, size, size, device=vae.device, generator=generator)
    rgb.requires_grad_()
    latents = pixels // 8
    grad = torch.randn(batch, 4, latents, latents, device=vae.device, generator=generator)

    def run() -> list:
        images = resize(rgb, pixels) * 2 - 1
        if layout is not None:
            images = images.contiguous(memory_format=layout)
        mean = vae.encode(images.to(vae.dtype)).latent_dist.mean
        loss = (mean.float() * (grad[..., : mean.shape[-2], : mean.shape[-1]])).sum()
        return [mean, torch.autograd.grad(loss, rgb)[0]]

    layout = None
    variants(part, "as it is", lambda: run)
    layout = torch.channels_last
    variants(part, "channels last", lambda: vae.to(memory_format=layout) and run)
    variants(part, "fused blocks", lambda: fuse_resnet_blocks(vae) and run)
    variants(part, "fused blocks, cudnn.benchmark", lambda: _benchmark(run))
    if CUDA:
        variants(part, "fused blocks, benchmark, one graph", lambda: graphed(run))
    _cudnn_benchmark(False)


def _benchmark(run):
    _cudnn_benchmark(True)
    return run


def _cudnn_benchmark(on: bool) -> None:
    torch.backends.cudnn.benchmark = on


def try_unet(variants: Variants, part: str, prior, batch: int, cameras: int | None = None) -> None:
    """A call without a graph."""
    from threestudio_jointdreamer.priors.fused_resnet import fuse_resnet_blocks

    unet, size = prior.unet, prior.latent_size
    generator = torch.Generator(prior.device).manual_seed(0)
    draw = {"device": prior.device, "generator": generator}
    x = torch.randn(batch, prior.latent_channels, size, size, **draw)
    t = torch.randint(20, 980, (batch,), **draw)
    text = torch.randn(batch, 77, prior.text_dim, **draw)
    labels = torch.randn(batch, cameras, **draw) if cameras else None

    @torch.no_grad()
    def run() -> list:
        return [prior.predict_noise(x, t, text, labels)]

    variants(part, "as it is", lambda: run)
    if CUDA:
        variants(part, "CUDA graph", lambda: graphed(run))
    unet.to(memory_format=torch.channels_last)
    variants(part, "channels last", lambda: run)
    fuse_resnet_blocks(unet)
    variants(part, "fused blocks", lambda: run)
    if CUDA:
        variants(part, "fused blocks, CUDA graph", lambda: graphed(run))
        _cudnn_benchmark(True)
        variants(part, "fused blocks, CUDA graph, benchmark", lambda: graphed(run))
        _cudnn_benchmark(False)


def try_streams(variants: Variants, guidance, views: int) -> None:
    """Both UNets, one after the other and at once."""
    prior, model = guidance.prior, guidance.energy.model
    generator = torch.Generator(prior.device).manual_seed(0)
    draw = {"device": prior.device, "generator": generator}

    def inputs(prior, cameras):
        x = torch.randn(2 * views, prior.latent_channels, *[prior.latent_size] * 2, **draw)
        t = torch.randint(20, 980, (2 * views,), **draw)
        text = torch.randn(2 * views, 77, prior.text_dim, **draw)
        return x, t, text, torch.randn(2 * views, 16, **draw) if cameras else None

    first, second = inputs(prior, False), inputs(model, True)

    @torch.no_grad()
    def in_turn() -> list:
        return [prior.predict_noise(*first), model.predict_noise(*second)]

    side = torch.cuda.Stream()

    @torch.no_grad()
    def at_once() -> list:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            b = model.predict_noise(*second)
        a = prior.predict_noise(*first)
        torch.cuda.current_stream().wait_stream(side)
        return [a, b]

    variants("both UNets", "as it is", lambda: in_turn)
    variants("both UNets", "CUDA graph", lambda: graphed(in_turn))
    variants("both UNets", "two streams", lambda: at_once)
    variants("both UNets", "two streams, CUDA graph", lambda: graphed(at_once))


def try_renderer(variants: Variants, system, case: str) -> None:
    """Parts of the renderer, on the rays of a batch."""
    import nerfacc

    renderer, geometry = system.renderer.train(), system.geometry
    batch = next(iter(system.trainer.train_dataloader))
    batch = {k: v.to(system.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    origins, dirs = (batch[k].reshape(-1, 3) for k in ("rays_o", "rays_d"))
    part = f"renderer {case}"
    parameters = [p for p in system.parameters() if p.requires_grad and p.numel()]

    def sample() -> list:
        torch.manual_seed(0)
        ray_indices, t_starts, t_ends = renderer._sample(origins, dirs)
        return [ray_indices, t_starts, t_ends]

    variants(part, "as it is", lambda: sample)  # march, visibility
    ray_indices, t_starts, t_ends = sample()
    points = origins[ray_indices] + dirs[ray_indices] * ((t_starts + t_ends) / 2)[:, None]
    print(f"{len(origins)} rays, {len(points)} samples", flush=True)
    unit = (points / 2 + 0.5).clamp(0, 1)

    def backward(out: Tensor) -> list:
        return [g for g in torch.autograd.grad(out, parameters, allow_unused=True)
                if g is not None][:1]  # fmt: skip

    def with_normals() -> list:
        out = geometry(points, output_normal=True)
        return backward(out["density"].sum() + out["features"].sum() + out["normal"].sum())

    def without() -> list:
        out = geometry(points)
        return backward(out["density"].sum() + out["features"].sum())

    def march() -> list:
        torch.manual_seed(0)
        from threestudio.models.renderers.marching import sample_rays

        return list(sample_rays(renderer.estimator, origins, dirs, None, 0.0, 1e10,
                                renderer.render_step_size, 0.0, True))[:1]  # fmt: skip

    def composite() -> list:
        density = torch.rand(len(points), device=points.device, generator=None).requires_grad_()
        from threestudio.models.renderers.marching import render_weights

        weights = render_weights(t_starts, t_ends, density, ray_indices)
        image = nerfacc.accumulate_along_rays(weights, points, ray_indices, len(origins))
        return list(torch.autograd.grad(image.sum(), density))

    @torch.no_grad()
    def density() -> list:
        return [geometry.forward_density(points)]

    def encode() -> list:
        return backward(geometry.encoding(unit).sum())

    def network() -> list:
        enc = encoded.detach().requires_grad_()
        return list(torch.autograd.grad(geometry.density_network(enc).sum(), enc))

    with torch.no_grad():
        encoded = geometry.encoding(unit)
    for name, function in {
        "march": march,
        "geometry with normals, and back": with_normals,
        "geometry without, and back": without,
        "compositing, and back": composite,
        "density": density,
        "encoding, and back": encode,
        "density network, and back": network,
    }.items():
        variants(f"{part}: {name}", "as it is", lambda function=function: function)
    torch.set_float32_matmul_precision("high")
    variants(f"{part}: geometry with normals, and back", "as it is", lambda: with_normals)
    torch.set_float32_matmul_precision("highest")


def try_compile(variants: Variants, guidance) -> None:
    """Regional compilation, of blocks that are fused already; the last, for it takes long."""
    prior = guidance.prior
    x = torch.randn(16, 4, 64, 64, device=prior.device)
    t = torch.randint(20, 980, (16,), device=prior.device)
    text = torch.randn(16, 77, prior.text_dim, device=prior.device)

    @torch.no_grad()
    def run() -> list:
        return [prior.predict_noise(x, t, text)]

    variants("UNet, compiled", "as it is", lambda: run)

    def compiled():
        prior.unet.compile_repeated_blocks(dynamic=False)
        return run

    variants("UNet, compiled", "transformer blocks", compiled)
    variants("UNet, compiled", "transformer blocks, CUDA graph", lambda: graphed(run))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", choices=["full"], help="random weights of that size")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--budget", type=float, default=200, help="seconds, for the variants")
    return parser.parse_args()


def main() -> None:
    args, began = parse_arguments(), time.perf_counter()
    warnings.filterwarnings("ignore", ".*")
    load_host()
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"{device_name()}, torch {torch.__version__}")
    config = str(ROOT / f"configs/{'' if args.random else 'tiny/'}jointdreamer.yaml")
    rows, kernels, steps = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        overrides = [PROMPT, "system.guidance_eval_step=0", f"exp_root_dir={folder}"]
        overrides += ["system.guidance.energy_weight=0.3125"]
        overrides += random_priors(folder) if args.random else []
        print(f"priors made after {time.perf_counter() - began:.0f} s", flush=True)
        variants = Variants(args.out / "variants.csv", args.budget)
        system = None
        for case, setting in product(CASES, SETTINGS):
            system = None
            gc.collect()
            if CUDA:
                torch.cuda.empty_cache()
                total = torch.cuda.get_device_properties(0).total_memory
                part = LOW_GIB * 2**30 / total if setting == "low" else 1.0
                torch.cuda.set_per_process_memory_fraction(part)
                torch.cuda.reset_peak_memory_stats()
            changed = [*overrides, *SETTINGS[setting]]
            system, step, more, largest = profile_step(case, setting, config, changed, folder)
            steps.append(step)
            write(args.out / "steps.csv", steps)
            rows, kernels = rows + more, kernels + largest
            for row in more:
                print(
                    "  ".join(
                        str(v).ljust(w)
                        for v, w in zip(row.values(), (11, 9, 30, 9, 9, 8, 7, 8), strict=True)
                    ),
                    flush=True,
                )
            write(args.out / "phases.csv", rows)
            write(args.out / "kernels.csv", kernels)
            print(f"after {time.perf_counter() - began:.0f} s", flush=True)
        if hasattr(system.renderer, "_sample"):
            try_renderer(variants, system, case)
        system.zero_grad(set_to_none=True)
        guidance = system.guidance
        prior, model = guidance.prior, guidance.energy.model
        system.renderer.cpu()
        if args.random:
            try_vae(variants, prior.vae, 8, 64, 512)
            try_unet(variants, "UNet", prior, 16)
            try_unet(variants, "multi-view UNet", model, 16, cameras=16)
            if CUDA:
                try_streams(variants, guidance, 8)
                try_streams(variants, guidance, 4)
                try_compile(variants, guidance)
        else:
            try_vae(variants, prior.vae, 4, 32, 64)
            try_unet(variants, "UNet", prior, 8)
            try_unet(variants, "multi-view UNet", model, 8, cameras=16)
    print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
