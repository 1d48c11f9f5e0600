"""Whether an asset gets what only its picture shows: hats and backpacks that the text leaves out.

    python benchmarks/image_prompts.py --together 16

Draws a picture of each of the demo's captions, runs configs/sweeps/image.yaml on their first words
("a purple rabbit"), and asks the tiny CLIP of all views of each asset what it is nearer to: the
caption of the picture, or the text. Started again, it does what is left.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from omegaconf import OmegaConf
from PIL import Image

from benchmarks.measure import as_text, load_host

ROOT = Path(__file__).resolve().parents[1]
CAPTIONS = json.loads((ROOT / "load" / "prompts" / "demo8.json").read_text())
PICTURES = Path("outputs/pictures")  # where the sweep's config looks


def text_of(caption: str) -> str:
    """The colour and the species alone."""
    return " ".join(caption.split()[:3])


def draw_pictures() -> None:
    from threestudio_jointdreamer.systems.picture_grid import save_picture

    from jointdreamer.tinyworld.sampling import pictures_of

    for caption, picture in zip(CAPTIONS, pictures_of(CAPTIONS, size=256), strict=True):
        rgba = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        save_picture(PICTURES / f"{text_of(caption).replace(' ', '_')}.png", Image.fromarray(rgba))


def look_at(out: Path) -> list[dict]:
    """A row for each tested run: CLIP's similarity to the picture's caption, and to the text."""
    from jointdreamer.evaluation.clip_models import load_clip
    from jointdreamer.evaluation.clip_score import clip_score
    from jointdreamer.runs import CONFIG, Run, read_picture, turntable

    clip, rows = load_clip("load/tiny/clip", torch.device("cpu")), []
    captions = {text_of(caption): caption for caption in CAPTIONS}
    for config in sorted(out.glob(f"*/*/{CONFIG}")):
        run = Run(config.parents[1])
        text = OmegaConf.load(config).system.prompt_processor.prompt
        views = turntable(run.newest("test"))
        images = clip.images([read_picture(path, views.aspect) for path in views.paths])
        of_caption, of_text = (clip_score(images, x) for x in clip.texts([captions[text], text]))
        row = {"method": run.folder.parent.name, "picture": captions[text]}
        rows.append(row | {"caption": round(of_caption, 1), "text": round(of_text, 1)})
    return rows


def sheet(out: Path) -> Image.Image:
    """The picture, and four sides of the asset, of each tested run."""
    from threestudio_jointdreamer.prompts.image import read_image_prompt
    from threestudio_jointdreamer.systems.picture_grid import picture_grid, to_tile
    from threestudio_jointdreamer.systems.turntable import nearest_views

    from jointdreamer.runs import CONFIG, Run, read_picture, turntable

    rows, labels = [], []
    for config in sorted(out.glob(f"*/*/{CONFIG}")):
        prompt = OmegaConf.load(config).system.prompt_processor
        views = turntable(Run(config.parents[1]).newest("test"))
        sides = nearest_views(views.azimuths_deg, (0, 90, 180, 270))
        image = read_image_prompt(str(PICTURES / f"{prompt.prompt.replace(' ', '_')}.png"), "image")
        seen = to_tile((image[:3] * image[3:] + 1 - image[3:]).permute(1, 2, 0))
        rows.append([seen, *(read_picture(views.paths[side], views.aspect) for side in sides)])
        labels.append(f"{config.parents[2].name.rpartition('-')[0]}: {prompt.prompt}")
    return picture_grid(rows, labels, ["the picture", "0°", "90°", "180°", "270°"], tile_size=128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/sweeps/image"))
    args, of_sweep = parser.parse_known_args()
    load_host()
    draw_pictures()
    sweep = ["sweep", str(ROOT / "configs/sweeps/image.yaml"), "--out", str(args.out), *of_sweep]
    subprocess.run([sys.executable, "-m", "jointdreamer.cli", *sweep], check=True)
    from threestudio_jointdreamer.systems.picture_grid import save_picture

    from jointdreamer.csv_table import write_csv

    rows = look_at(args.out)
    write_csv(args.out / "image-prompts.csv", rows)
    print(save_picture(args.out / "image-prompts.png", sheet(args.out)))
    print(as_text(rows))
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        nearer = sum(row["caption"] > row["text"] for row in own)
        print(f"{method}: {nearer} of {len(own)} nearer to the picture's caption than to the text")


if __name__ == "__main__":
    main()
