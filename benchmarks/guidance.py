"""What Joint Score Distillation costs beside SDS: time and peak memory of one guidance step.

    python benchmarks/guidance.py                                 # the shipped tiny priors
    python benchmarks/guidance.py --random full --size 64 --views 8 --compile
    python benchmarks/guidance.py --prior FOLDER --multiview FOLDER --csv outputs/guidance.csv

A step is the guidance's forward and the backward to the renders. Variants take turns, round by
round, so that what else the machine does falls on all of them; ratios are medians of the rounds'
own ratios. What it takes to build a variant, weights from the disk included, and its peak memory
are those of a process that runs the one variant; on a GPU the memory is the GPU's, without the
CUDA context, and on a CPU the resident size. Runs on a GPU if there is one.
"""

import argparse
import importlib
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from tables import write_csv

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

MULTIVIEW = {"energy_type": "jsd-multiview-energy", "energy_weight": 0.3125}
VARIANTS = {
    "sds": {"energy_type": "jsd-zero-energy", "energy_weight": 0.0},
    "jsd, weight 0": MULTIVIEW | {"energy_weight": 0.0},
    "jsd": MULTIVIEW,
    "jsd, through the UNet": MULTIVIEW | {"energy_gradient": "unet"},
    "sds, fused VAE attention": {"energy_type": "jsd-zero-energy", "energy_weight": 0.0},
    "translation": {"energy_type": "jsd-translation-energy", "energy_weight": 0.3125},
    "classifier": {"energy_type": "jsd-classifier-energy", "energy_weight": 10.0},
}
WITHOUT_SHIPPED_WEIGHTS = ("translation", "classifier")
MODELS = {  # whose folder an energy loads
    "jsd-multiview-energy": "multiview",
    "jsd-translation-energy": "translation",
    "jsd-classifier-energy": "classifier",
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", default=str(ROOT / "load/tiny/stable-diffusion"))
    parser.add_argument("--multiview", default=str(ROOT / "load/tiny/mvdream"))
    parser.add_argument("--translation", help="an image-to-image model's folder")
    parser.add_argument("--classifier", help="a pair classifier's folder")
    parser.add_argument("--random", choices=["tiny", "full"], help="random weights of that size")
    parser.add_argument("--views", type=int, default=4, help="views in a batch, 4 per object")
    parser.add_argument("--size", type=int, default=64, help="pixels of a render")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", choices=["shared", "fresh"], default="fresh")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--csv", help="where every round is written")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS))
    parser.add_argument("--only", choices=list(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.views % 4:
        parser.error(f"--views={args.views} is not a multiple of 4: use 4 or 8")
    if args.variants is None:
        args.variants = [
            name
            for name in VARIANTS
            if args.random or name not in WITHOUT_SHIPPED_WEIGHTS or getattr(args, name)
        ]
    return args


def build_random_priors(args: argparse.Namespace, folder: Path) -> None:
    """Points the models' arguments to random ones, of the variants that will be run."""
    priors = importlib.import_module("jointdreamer.testing.random_priors")
    image_priors = importlib.import_module("jointdreamer.testing.random_image_priors")
    classifiers = importlib.import_module("jointdreamer.testing.random_classifiers")
    if args.random == "full":
        builders = {
            "prior": priors.build_full_size,
            "multiview": lambda path, seed: priors.build_full_size(path, seed, multiview=True),
            "translation": image_priors.build_full_size_wonder3d,
            "classifier": classifiers.build_full_size_pair_classifier,
        }
    else:
        builders = {
            "prior": priors.build_stable_diffusion,
            "multiview": priors.build_mvdream,
            "translation": image_priors.build_wonder3d,
            "classifier": classifiers.build_pair_classifier,
        }
    needed = {MODELS.get(VARIANTS[name]["energy_type"], "prior") for name in args.variants}
    for seed, (model, build) in enumerate(builders.items(), args.seed):
        if model in {"prior", *needed}:
            setattr(args, model, str(build(folder / model, seed)))


class Variant:
    """One guidance with its inputs."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        import threestudio

        from jointdreamer.testing.cameras import camera_ring
        from jointdreamer.testing.prompts import RandomPrompts

        cfg = {
            "pretrained_model_name_or_path": args.prior,
            "compile": args.compile,
            **VARIANTS[name],
        }
        if model := MODELS.get(cfg["energy_type"]):
            cfg["energy"] = {"pretrained_model_name_or_path": getattr(args, model)}
            if model != "classifier":
                cfg["energy"] |= {"noise": args.noise, "compile": args.compile}
            if model == "translation":
                cfg["energy"]["elevation_tolerance"] = 30.0  # the second object is seen from 20
        self.guidance = threestudio.find("jsd-guidance")(cfg)
        if name.endswith("fused VAE attention"):  # as it would be without `LatentPrior`'s choice
            self.guidance.prior.vae.set_attn_processor(AttnProcessor2_0())
        self.device, self.seed = self.guidance.device, args.seed
        width = self.guidance.prior.text_dim
        self.prompts = RandomPrompts(args.seed, length=77 if width > 128 else 24, width=width)
        for field in ("text_embeddings", "uncond_text_embeddings", "direction"):
            setattr(self.prompts, field, getattr(self.prompts, field).to(self.device))
        generator = torch.Generator().manual_seed(args.seed)
        self.rgb = torch.rand(args.views, args.size, args.size, 3, generator=generator)
        self.rgb = self.rgb.to(self.device).requires_grad_()
        cameras = camera_ring(args.views // 4, 4)
        cameras["opacity"] = torch.rand(args.views, args.size, args.size, 1, generator=generator)
        self.batch = {key: value.to(self.device) for key, value in cameras.items()}

    def step(self) -> tuple[float, float]:
        """Seconds, and the peak memory so far (CPU) or in this step (GPU) in MiB."""
        torch.manual_seed(self.seed)
        self.rgb.grad = None
        self._synchronize()
        start = time.perf_counter()
        self.guidance(self.rgb, self.prompts, **self.batch)["loss_sds"].backward()
        self._synchronize()
        return time.perf_counter() - start, self._peak()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _peak(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def cost_of_one(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds to build this variant, and MiB of the process that has no other."""
    options = {f"--{model}": getattr(args, model) for model in ("prior", *MODELS.values())}
    options = {option: value for option, value in options.items() if value} | {
        "--views": args.views,
        "--size": args.size,
        "--seed": args.seed,
        "--noise": args.noise,
        "--only": name,
    }
    command = [sys.executable, __file__, *(str(x) for pair in options.items() for x in pair)]
    command += ["--compile"] if args.compile else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    build_seconds, peak_mib = done.stdout.split()[-2:]
    return {"build_s": round(float(build_seconds), 1), "peak_mib": round(float(peak_mib))}


def print_cost_of_one(name: str, args: argparse.Namespace) -> None:
    start = time.perf_counter()
    variant = Variant(name, args)
    build_seconds = time.perf_counter() - start
    print(build_seconds, max(variant.step()[1] for _ in range(3)))


def run_rounds(args: argparse.Namespace) -> list[dict]:
    variants = {name: Variant(name, args) for name in args.variants}
    for variant in variants.values():
        for _ in range(args.warmup):
            variant.step()
    return [
        {"round": i, "variant": name, "seconds": variant.step()[0]}
        for i in range(args.rounds)
        for name, variant in variants.items()
    ]


def main() -> None:
    args = parse_arguments()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    host = importlib.import_module("jointdreamer.host.selection")
    host.ensure_host()
    host.load_extension()
    if args.only:
        return print_cost_of_one(args.only, args)
    with tempfile.TemporaryDirectory() as folder:
        if args.random:
            build_random_priors(args, Path(folder))
        costs = {name: cost_of_one(name, args) for name in args.variants}
        rows = run_rounds(args)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    setting = {"device": device, "torch": torch.__version__, "threads": torch.get_num_threads()}
    setting |= {key: getattr(args, key) for key in ("random", "views", "size", "noise", "compile")}
    setting |= {"seed": args.seed}
    rows = [setting | row | costs[row["variant"]] for row in rows]
    if args.csv:
        write_csv(args.csv, rows)
    print(", ".join(f"{key} {value}" for key, value in setting.items() if value is not None))
    print_table(rows, args.variants)


def print_table(rows: list[dict], variants: list[str]) -> None:
    """Ratios are to the first variant."""
    first, *_ = variants
    seconds = {name: [r["seconds"] for r in rows if r["variant"] == name] for name in variants}
    costs = {row["variant"]: row for row in rows}
    print(f"{'variant':24}{'build s':>8}{'ms':>10}{'ratio':>9}{'MiB':>9}{'ratio':>9}")
    for name, own in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(own, seconds[first], strict=True))
        peak, build = costs[name]["peak_mib"], costs[name]["build_s"]
        memory = peak / costs[first]["peak_mib"]
        median = 1000 * statistics.median(own)
        print(f"{name:24}{build:8.1f}{median:10.1f}{ratio:8.2f}x{peak:9.0f}{memory:8.2f}x")


if __name__ == "__main__":
    main()
