"""What Joint Score Distillation costs beside SDS: time and peak memory of one guidance step.

    python benchmarks/guidance.py                                 # the shipped tiny priors
    python benchmarks/guidance.py --random full --size 64 --views 8 --compile
    python benchmarks/guidance.py --random full --imagedream --variants sds jsd
    python benchmarks/guidance.py --random full --prior sd3 --variants sds jsd      # or sdxl
    python benchmarks/guidance.py --prior FOLDER --multiview FOLDER --csv outputs/guidance.csv

A step is the guidance's forward and the backward to the renders. Variants take turns, round by
round, so that what else the machine does falls on all of them; ratios are medians of the rounds'
own ratios, to the first. With --random full and JOINTDREAMER_ROOT in the environment, a checkout
of the authors' fork, that first one is theirs. What it takes to build a variant, weights from the
disk included, and its peak memory are those of a process that runs the one variant; on a GPU the
memory is the GPU's, without the CUDA context, and on a CPU the resident size. Runs on a GPU if
there is one.
"""

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from benchmarks import authors_guidance
from benchmarks.measure import (
    as_text,
    device_name,
    in_own_process,
    load_host,
    median_ratio,
    take_turns,
)

TINY = Path(__file__).resolve().parents[1] / "load" / "tiny"
MULTIVIEW = {"energy_type": "jsd-multiview-energy", "energy_weight": 0.3125}
VARIANTS = {
    "sds": {"energy_type": "jsd-zero-energy", "energy_weight": 0.0},
    "jsd, weight 0": MULTIVIEW | {"energy_weight": 0.0},
    "jsd": MULTIVIEW,
    "jsd, through the UNet": MULTIVIEW | {"energy_gradient": "unet"},
    "jsd, MV-Adapter": MULTIVIEW,  # in place of MVDream
    "sds, fused VAE attention": {"energy_type": "jsd-zero-energy", "energy_weight": 0.0},
    "translation": {"energy_type": "jsd-translation-energy", "energy_weight": 0.3125},
    "classifier": {"energy_type": "jsd-classifier-energy", "energy_weight": 10.0},
}
ADAPTER, AUTHORS = "jsd, MV-Adapter", "the authors' fork"
MODELS = {  # whose folder an energy loads
    "jsd-multiview-energy": "multiview",
    "jsd-translation-energy": "translation",
    "jsd-classifier-energy": "classifier",
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", help="a folder; with --random a family, sd, sdxl or sd3")
    parser.add_argument("--multiview", default=str(TINY / "mvdream"))
    parser.add_argument("--mv-adapter", help="its file or folder, for a UNet as --prior's")
    parser.add_argument("--translation", default=str(TINY / "wonder3d"), help="image to image")
    parser.add_argument("--classifier", default=str(TINY / "pair-classifier"))
    parser.add_argument("--imagedream", action="store_true", help="the multi-view model is one")
    parser.add_argument("--random", choices=["tiny", "full"], help="random weights of that size")
    parser.add_argument("--views", type=int, default=4, help="views in a batch, 4 per object")
    parser.add_argument("--size", type=int, default=64, help="pixels of a render")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", choices=["shared", "fresh"], default="fresh")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--csv", help="where every round is written")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    args = parser.parse_args()
    if not (args.random or args.mv_adapter) or args.prior == "sd3":  # which has no UNet
        args.variants = [name for name in args.variants if name != ADAPTER]
    if args.views % 4:
        parser.error(f"--views={args.views} is not a multiple of 4: use 4 or 8")
    if args.random and args.prior not in (None, "sd", "sdxl", "sd3"):
        parser.error(f"--prior={args.prior} is no family of random priors: use sd, sdxl or sd3")
    args.family = args.prior or "sd" if args.random else "sd"
    args.prior = args.prior or str(TINY / "stable-diffusion")
    if args.random == "full" and args.family == "sd" and authors_guidance.CHECKOUT in os.environ:
        args.variants = [AUTHORS, *args.variants]
    return args


def build_random_priors(args: argparse.Namespace, folder: Path) -> None:
    """Points the models' arguments to random ones, of the variants that will be run."""
    from jointdreamer.testing import random_classifiers, random_image_priors, random_priors

    alone = args.family == "sd"  # which shares its VAE and its text encoder with MVDream
    builders = {
        "tiny": {
            "prior": random_priors.BUILDERS["tiny"][args.family],
            "multiview": partial(random_priors.build_mvdream, with_vae=not alone),
            "translation": random_image_priors.build_wonder3d,
            "classifier": random_classifiers.build_pair_classifier,
        },
        "full": {
            "prior": random_priors.BUILDERS["full"][args.family],
            "multiview": partial(random_priors.build_full_size, multiview=True, whole=not alone),
            "translation": random_image_priors.build_full_size_wonder3d,
            "classifier": random_classifiers.build_full_size_pair_classifier,
        },
    }
    if args.imagedream:
        builders["tiny"]["multiview"] = random_image_priors.build_imagedream
        builders["full"]["multiview"] = random_image_priors.build_full_size_imagedream
    ours = [name for name in args.variants if name not in (AUTHORS, ADAPTER)]
    needed = {MODELS.get(VARIANTS[name]["energy_type"], "prior") for name in ours}
    for seed, (model, build) in enumerate(builders[args.random].items(), args.seed):
        if model in {"prior", *needed}:
            setattr(args, model, str(build(folder / model, seed=seed)))
    if ADAPTER in args.variants:
        file, unet = folder / "mv_adapter.safetensors", Path(args.prior) / "unet"
        args.mv_adapter = str(random_priors.build_mv_adapter(file, unet, seed=args.seed))


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
            if model == "multiview" and name != ADAPTER and args.family != "sd":
                cfg["energy"]["text_encoder_name_or_path"] = args.multiview
            if model == "translation" or name == ADAPTER:
                cfg["energy"]["elevation_tolerance"] = 30.0  # the second object is seen from 20
            if name == ADAPTER:
                cfg["energy"] |= {"pretrained_model_name_or_path": args.mv_adapter}
                cfg["energy"] |= {"base_model_name_or_path": args.prior}
        self.guidance = threestudio.find("jsd-guidance")(cfg)
        if name.endswith("fused VAE attention"):  # as it would be without `LatentPrior`'s choice
            self.guidance.prior.vae.set_attn_processor(AttnProcessor2_0())
        device, self.seed = self.guidance.device, args.seed
        width = self.guidance.prior.text_dim
        more = {"sd": 0, "sdxl": 1, "sd3": 257}[args.family]  # a pooled embedding, T5's tokens
        length, others = (77, 1024) if width > 128 else (24, 128)
        mvdreams = RandomPrompts(args.seed, length, others)
        prompts = RandomPrompts(args.seed, length + more, width, others=mvdreams)
        self.prompts = prompts.to(device)
        if self.guidance.energy.takes_image:
            self.prompts.image = torch.rand(4, 512, 512)
        generator = torch.Generator().manual_seed(args.seed)
        self.rgb = torch.rand(args.views, args.size, args.size, 3, generator=generator)
        self.rgb = self.rgb.to(device).requires_grad_()
        cameras = camera_ring(args.views // 4, 4)
        cameras["opacity"] = torch.rand(args.views, args.size, args.size, 1, generator=generator)
        self.batch = {key: value.to(device) for key, value in cameras.items()}

    def step(self) -> None:
        torch.manual_seed(self.seed)
        self.rgb.grad = None
        self.guidance(self.rgb, self.prompts, **self.batch)["loss_sds"].backward()


class AuthorsVariant(Variant):
    """Theirs, for the same renders and cameras: MVDream in fp32 under autocast, as they run it."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        super().__init__("sds", args)
        self.guidance = authors_guidance.build(args.prior, args.views, self.rgb.device)

    def step(self) -> None:
        torch.manual_seed(self.seed)
        self.rgb.grad = None
        with torch.autocast(self.rgb.device.type, torch.float16, enabled=self.rgb.is_cuda):
            out = self.guidance(
                self.rgb, self.prompts, **self.batch, global_step=authors_guidance.STEP
            )
        out["loss_sds"].backward()


def make_variant(name: str, args: argparse.Namespace) -> Variant:
    return (AuthorsVariant if name == AUTHORS else Variant)(name, args)


def cost_of_one(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds to build this variant, and MiB of the process, which must have no other."""
    load_host()
    start = time.perf_counter()
    variant = make_variant(name, args)
    build_s = time.perf_counter() - start
    for _ in range(3):
        variant.step()
    if variant.rgb.is_cuda:
        peak_mib = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"build_s": round(build_s, 1), "peak_mib": round(peak_mib)}


def main() -> None:
    args = parse_arguments()
    load_host()
    with tempfile.TemporaryDirectory() as folder:
        if args.random:
            build_random_priors(args, Path(folder))
        costs = {name: in_own_process(cost_of_one, name, args) for name in args.variants}
        variants = {name: make_variant(name, args) for name in args.variants}
        steps = {name: variant.step for name, variant in variants.items()}
        rounds = take_turns(steps, args.rounds, args.warmup)
    about = {"device": device_name(), "torch": torch.__version__}
    about |= {"threads": torch.get_num_threads()}
    about |= {
        key: getattr(args, key)
        for key in ("random", "family", "views", "size", "noise", "compile", "seed")
    }
    if args.csv:
        from jointdreamer.csv_table import write_csv

        rows = [
            about | {"round": i, "variant": name, "seconds": seconds} | costs[name]
            for i, times in enumerate(rounds)
            for name, seconds in times.items()
        ]
        write_csv(args.csv, rows)
    print(", ".join(f"{key} {value}" for key, value in about.items() if value is not None))
    print(as_text([row_of(name, args.variants[0], rounds, costs) for name in args.variants]))


def row_of(name: str, first: str, rounds: list[dict], costs: dict[str, dict]) -> dict[str, str]:
    """Ratios are to the first variant."""
    peak, of_first = costs[name]["peak_mib"], costs[first]["peak_mib"]
    return {
        "variant": name,
        "build s": f"{costs[name]['build_s']:.1f}",
        "ms": f"{1000 * statistics.median(times[name] for times in rounds):.1f}",
        "ms ratio": f"{median_ratio(rounds, name, first):.2f}x",
        "MiB": f"{peak:.0f}",
        "MiB ratio": f"{peak / of_first:.2f}x",
    }


if __name__ == "__main__":
    main()
