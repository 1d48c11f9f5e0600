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
GUIDANCE_SCALE = {"stable-diffusion": 4.0, "mvdream": 4.0, "wonder3d": 1.5}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="tinyworld_command", required=True)

    training = commands.add_parser("train", help="train stages of the tiny world")
    training.add_argument(
        "stages", nargs="+", help="vae, clip, stable-diffusion, mvdream, wonder3d, or all"
    )
    training.add_argument("--root", type=Path, default=Path("load/tiny"), help="weights folder")
    training.add_argument("--device", default=None, help="cuda or cpu; the GPU if there is one")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--steps", type=int, help="override the stage's number of steps")
    training.add_argument("--pictures", type=int, help="override the stage's number of pictures")
    training.add_argument("--batch", type=int, help="override the stage's batch size")
    training.add_argument("--max-seconds", type=float, help="shorten each stage to about this")
    training.set_defaults(run=_train)

    samples = commands.add_parser("samples", help="draw a sheet of samples from each prior")
    samples.add_argument("--root", type=Path, default=Path("load/tiny"), help="weights folder")
    samples.add_argument("--out", type=Path, default=Path("docs"), help="where the sheets go")
    samples.add_argument("--prior", choices=(*GUIDANCE_SCALE, "all"), default="all")
    samples.add_argument("--prompt", action="append", help="repeatable; a fixed list by default")
    samples.add_argument("--guidance-scale", type=float, help="default: 4, or 1.5 for wonder3d")
    samples.add_argument("--azimuth", type=float, default=0.0, help="of the reference, in degrees")
    samples.add_argument("--seed", type=int, default=0)
    samples.add_argument("--device", default="cpu")
    samples.set_defaults(run=_samples)

    world = commands.add_parser("show", help="draw the true creature of a caption, all round")
    world.add_argument("prompts", nargs="*", default=SAMPLE_PROMPTS)
    world.add_argument("--out", type=Path, default=Path("docs/tinyworld.png"))
    world.set_defaults(run=_show)


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
    prompts = list(args.prompt or SAMPLE_PROMPTS)
    for prior in GUIDANCE_SCALE if args.prior == "all" else (args.prior,):
        scale = GUIDANCE_SCALE[prior] if args.guidance_scale is None else args.guidance_scale
        draw = _sample_translation if prior == "wonder3d" else _sample_text_prior
        draw(args, prior, prompts, scale)
    return 0


def _sample_text_prior(
    args: argparse.Namespace, prior: str, prompts: list[str], guidance_scale: float
) -> None:
    from .sampling import sample

    # Four samples a prompt from the 2D prior; four views a prompt from the multi-view prior.
    repeated = [p for p in prompts for _ in range(4 if prior == "stable-diffusion" else 1)]
    images = sample(
        args.root,
        prior,
        repeated,
        seed=args.seed,
        guidance_scale=guidance_scale,
        azimuth_deg=args.azimuth,
        device=args.device,
    ).cpu()
    rows = images.flatten(0, 1).unflatten(0, (len(prompts), -1))
    _save_grid(rows, args.out / f"samples-{prior}.png", prompts)


def _sample_translation(
    args: argparse.Namespace, prior: str, prompts: list[str], guidance_scale: float
) -> None:
    import torch

    from .translation_samples import sample_views, true_views

    truth = true_views(prompts, azimuth_deg=args.azimuth, elevation_deg=15.0)
    predicted = sample_views(
        args.root,
        prior,
        truth,
        seed=args.seed,
        guidance_scale=guidance_scale,
        device=args.device,
    ).cpu()
    rows = torch.cat([truth[:, :1], predicted[:, 1:], truth[:, 1:]], dim=1)
    step = 360 // truth.shape[1]
    offsets = [f"{step * view}°" for view in range(1, truth.shape[1])]
    columns = ["reference", *[f"predicted {o}" for o in offsets], *[f"true {o}" for o in offsets]]
    _save_grid(rows, args.out / f"samples-{prior}.png", prompts, columns)


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


def _save_grid(rows, path: Path, labels: list[str], columns: list[str] | None = None) -> None:
    """Writes pictures [R C 3 H W] in [0, 1] as one sheet, a labelled row per prompt."""
    from threestudio_jointdreamer.systems.picture_grid import picture_grid, save_picture, to_tile

    tiles = [[to_tile(image.permute(1, 2, 0)) for image in row] for row in rows]
    print(save_picture(path, picture_grid(tiles, row_labels=labels, column_labels=columns)))
