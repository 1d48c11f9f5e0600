"""`jointdreamer tinyworld ...`: train the tiny priors, and look at what they learnt."""

import argparse
import json
from pathlib import Path

from ..paths import find_shipped

OUT = Path("outputs/tinyworld")
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
SCENE_PROMPTS = ("a red bear and a blue cat", "a green frog and a pink elephant")
GUIDANCE_SCALE = {
    **{"stable-diffusion": 4.0, "stable-diffusion-3": 4.0, "mvdream": 4.0},
    **{"scene-stable-diffusion": 4.0, "scene-mvdream": 4.0},
    **{"wonder3d": 1.5, "imagedream": 2.0},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="tinyworld_command", required=True)

    training = commands.add_parser("train", help="train stages of the tiny world")
    training.add_argument(
        "stages",
        nargs="+",
        help="vae, clip, stable-diffusion, stable-diffusion-3, mvdream, wonder3d, imagedream, "
        "scene-stable-diffusion, scene-mvdream; all",
    )
    training.add_argument("--root", type=Path, default=Path("load/tiny"), help="weights folder")
    training.add_argument("--device", default=None, help="cuda or cpu; the GPU if there is one")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--steps", type=int, help="override the stage's number of steps")
    training.add_argument("--pictures", type=int, help="override the stage's number of pictures")
    training.add_argument("--batch", type=int, help="override the stage's batch size")
    training.add_argument("--max-seconds", type=float, help="shorten each stage to about this")
    training.add_argument("--species", help="all that a text-prompted prior sees, as in bear,cat")
    training.set_defaults(run=_train)

    samples = commands.add_parser("samples", help="draw a sheet of samples from each prior")
    samples.add_argument("--root", type=Path, default=Path("load/tiny"), help="weights folder")
    samples.add_argument("--out", type=Path, default=OUT, help="where the sheets go; %(default)s")
    samples.add_argument("--prior", choices=(*GUIDANCE_SCALE, "all"), default="all")
    samples.add_argument("--prompt", action="append", help="repeatable; a fixed list by default")
    samples.add_argument("--guidance-scale", type=float, help="default: 4, or less with an image")
    samples.add_argument("--azimuth", type=float, default=0.0, help="of the reference, in degrees")
    samples.add_argument("--seed", type=int, default=0)
    samples.add_argument("--device", default="cpu")
    samples.set_defaults(run=_samples)

    world = commands.add_parser("show", help="draw the true creature of a caption, all round")
    world.add_argument("prompts", nargs="*", default=SAMPLE_PROMPTS)
    world.add_argument("--out", type=Path, default=OUT / "creatures.png", help="%(default)s")
    world.set_defaults(run=_show)

    picture = commands.add_parser("picture", help="draw a caption's creature, cut out, as a prompt")
    picture.add_argument("prompt", help="such as 'a green bear wearing a red hat'")
    picture.add_argument("--out", type=Path, default=OUT / "picture.png", help="%(default)s")
    picture.add_argument("--azimuth", type=float, default=0.0, help="of the camera, in degrees")
    picture.set_defaults(run=_picture)

    mesh = commands.add_parser("mesh", help="write the bare surface of a caption's creature")
    mesh.add_argument("prompt", help="such as 'a green bear wearing a red hat'")
    mesh.add_argument("--out", type=Path, default=OUT / "creature.glb", help="%(default)s")
    mesh.set_defaults(run=_mesh)


def _train(args: argparse.Namespace) -> None:
    import torch

    from .stages import STAGES, check_stage, train

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    species = args.species and args.species.split(",")
    numbers = (args.seed, args.steps, args.pictures, args.batch, args.max_seconds, species)
    stages = list(STAGES) if args.stages == ["all"] else args.stages
    for stage in stages:  # before the first one trains
        check_stage(stage, species)
    for stage in stages:
        print(json.dumps({"stage": stage, **train(stage, args.root, device, *numbers)}))


def _samples(args: argparse.Namespace) -> None:
    import torch

    from .sampling import (
        pictures_of,
        sample,
        sample_prompted_views,
        sample_views,
        true_views,
    )

    root = find_shipped(args.root) or args.root
    for prior in GUIDANCE_SCALE if args.prior == "all" else (args.prior,):
        usual = SCENE_PROMPTS if prior.startswith("scene-") else SAMPLE_PROMPTS
        prompts = list(args.prompt or usual)
        scale = GUIDANCE_SCALE[prior] if args.guidance_scale is None else args.guidance_scale
        columns = None
        options = {"seed": args.seed, "guidance_scale": scale, "device": args.device}
        if prior == "wonder3d":
            truth = true_views(prompts, args.azimuth)
            predicted = sample_views(root, prior, truth, **options).cpu()
            rows = torch.cat([truth[:, :1], predicted[:, 1:], truth[:, 1:]], dim=1)
            columns = [f"{of} {deg}°" for of in ("predicted", "true") for deg in (90, 180, 270)]
            columns.insert(0, "reference")
        elif prior == "imagedream":
            pictures = pictures_of(prompts, args.azimuth)
            views = sample_prompted_views(root, prior, pictures, prompts, **options).cpu()
            shown = pictures[:, :3] * pictures[:, 3:] + 1 - pictures[:, 3:]
            rows = torch.cat([shown[:, None], views, true_views(prompts)], dim=1)
            columns = [f"{of} {d}°" for of in ("predicted", "true") for d in (0, 90, 180, 270)]
            columns.insert(0, "picture")
        else:  # four samples a prompt from a 2D prior; four views from the multi-view prior
            repeated = [p for p in prompts for _ in range(1 if prior.endswith("mvdream") else 4)]
            images = sample(root, prior, repeated, azimuth_deg=args.azimuth, **options).cpu()
            rows = images.flatten(0, 1).unflatten(0, (len(prompts), -1))
        _save_grid(rows, args.out / f"samples-{prior}.png", prompts, columns)


def _show(args: argparse.Namespace) -> None:
    from .sampling import true_views

    _save_grid(true_views(args.prompts, n_view=8), args.out, list(args.prompts))


def _picture(args: argparse.Namespace) -> None:
    from PIL import Image
    from threestudio_jointdreamer.systems.picture_grid import save_picture

    from .sampling import pictures_of

    (picture,) = pictures_of([args.prompt], args.azimuth, size=256)
    rgba = (picture * 255).round().byte().permute(1, 2, 0).numpy()
    print(save_picture(args.out, Image.fromarray(rgba)))


def _mesh(args: argparse.Namespace) -> None:
    from threestudio_jointdreamer.files import replacing

    from .creature_mesh import creature_mesh

    with replacing(args.out) as new:
        creature_mesh(args.prompt).export(new)
    print(args.out)


def _save_grid(rows, path: Path, labels: list[str], columns: list[str] | None = None) -> None:
    """Writes pictures [R C 3 H W] in [0, 1] as one sheet, a labelled row per prompt."""
    from threestudio_jointdreamer.systems.picture_grid import picture_grid, save_picture, to_tile

    tiles = [[to_tile(image.permute(1, 2, 0)) for image in row] for row in rows]
    print(save_picture(path, picture_grid(tiles, row_labels=labels, column_labels=columns)))
