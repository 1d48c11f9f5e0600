"""`jointdreamer tinyworld ...`: train the tiny priors, and look at what they learnt."""

import argparse
import json
from pathlib import Path

SAMPLE_PROMPTS = (
    "a red bear wearing a blue hat",
    "a yellow rabbit with a green backpack",
    "a blue cat wearing a red hat and a yellow backpack",
    "a pink elephant",
    "a green mouse with a white belly",
    "an orange duck wearing a purple hat",
    "a purple dog wearing a yellow hat and a white backpack",
    "a brown frog wearing an orange hat",
)


def add_arguments(subparsers) -> None:
    """Adds the `tinyworld` command and its own commands to an argparse sub-parser collection."""
    parser = subparsers.add_parser("tinyworld", help="train and look at the tiny priors")
    commands = parser.add_subparsers(dest="tinyworld_command", required=True)

    training = commands.add_parser("train", help="train stages of the tiny world")
    training.add_argument("stages", nargs="+", help="vae, clip, stable-diffusion, mvdream, or all")
    training.add_argument("--root", type=Path, default=Path("load/tiny"), help="weights folder")
    training.add_argument("--device", default=None, help="cuda or cpu; the GPU if there is one")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--steps", type=int, help="override the stage's number of steps")
    training.add_argument("--pictures", type=int, help="override the stage's number of pictures")
    training.add_argument("--batch", type=int, help="override the stage's batch size")
    training.add_argument("--max-seconds", type=float, help="shorten each stage to about this")
    training.set_defaults(handler=_train)

    samples = commands.add_parser("samples", help="draw a sheet of samples from each prior")
    samples.add_argument("--root", type=Path, default=Path("load/tiny"), help="weights folder")
    samples.add_argument("--out", type=Path, default=Path("docs"), help="where the sheets go")
    samples.add_argument("--prior", choices=("stable-diffusion", "mvdream", "all"), default="all")
    samples.add_argument("--prompt", action="append", help="repeatable; a fixed list by default")
    samples.add_argument("--guidance-scale", type=float, default=4.0)
    samples.add_argument("--seed", type=int, default=0)
    samples.add_argument("--device", default="cpu")
    samples.set_defaults(handler=_samples)

    world = commands.add_parser("show", help="draw the true creature of a caption, all round")
    world.add_argument("prompts", nargs="*", default=SAMPLE_PROMPTS)
    world.add_argument("--out", type=Path, default=Path("docs/tinyworld.png"))
    world.set_defaults(handler=_show)


def _train(args: argparse.Namespace) -> int:
    import torch

    from .stages import STAGES, train

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    stages = list(STAGES) if args.stages == ["all"] else args.stages
    for stage in stages:
        report = train(
            stage,
            args.root,
            device,
            args.seed,
            args.steps,
            args.pictures,
            args.batch,
            args.max_seconds,
        )
        print(json.dumps({"stage": stage, **report}))
    return 0


def _samples(args: argparse.Namespace) -> int:
    from .sampling import sample

    prompts = list(args.prompt or SAMPLE_PROMPTS)
    priors = ("stable-diffusion", "mvdream") if args.prior == "all" else (args.prior,)
    for prior in priors:
        # Four samples a prompt from the 2D prior; four views a prompt from the multi-view prior.
        repeated = [p for p in prompts for _ in range(4 if prior == "stable-diffusion" else 1)]
        images = sample(
            args.root,
            prior,
            repeated,
            seed=args.seed,
            guidance_scale=args.guidance_scale,
            device=args.device,
        ).cpu()
        rows = images.flatten(0, 1).unflatten(0, (len(prompts), -1))
        _save_grid(rows, args.out / f"samples-{prior}.png", prompts)
    return 0


def _show(args: argparse.Namespace) -> int:
    import torch

    from .captions import parse
    from .creatures import build
    from .renderer import orbit_cameras, render

    rows = []
    for prompt in args.prompts:
        azimuth = torch.arange(8) * 45.0
        c2w = orbit_cameras(azimuth, torch.full((8,), 15.0), torch.full((8,), 2.6))
        objects = build(parse(prompt))[torch.zeros(8, dtype=torch.long)]
        rows.append(render(objects, c2w, torch.full((8,), 40.0), torch.full((8, 3), 0.85)))
    _save_grid(torch.stack(rows), args.out, list(args.prompts))
    return 0


def _save_grid(rows, path: Path, labels: list[str]) -> None:
    """Writes pictures [R C 3 H W] in [0, 1] as one sheet, a labelled row per prompt."""
    from ..systems.pictures import picture_grid, save_picture, to_tile

    tiles = [[to_tile(image.permute(1, 2, 0)) for image in row] for row in rows]
    print(save_picture(path, picture_grid(tiles, row_labels=labels)))
