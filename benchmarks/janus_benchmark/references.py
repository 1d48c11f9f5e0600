"""True creatures of the prompts as the runs' test views show assets: what FID compares with."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from threestudio_jointdreamer.files import replacing

from jointdreamer.progress import track
from jointdreamer.tinyworld.captions import parse
from jointdreamer.tinyworld.creatures import build
from jointdreamer.tinyworld.dataset import DEFAULT_BACKGROUND
from jointdreamer.tinyworld.renderer import orbit_cameras, render

CREATURES, VIEWS, SIZE = 4, 12, 128  # of each prompt; of each creature; pixels
ELEVATION_DEG, FOVY_DEG = 15.0, 40.0  # as configs/tiny/*.yaml test
DISTANCE = 1 / math.tan(math.radians(FOVY_DEG / 2))


def make_references(folder: Path, prompts: Sequence[str], device: str | None = None) -> Path:
    """Pictures of `CREATURES` individuals of each prompt from all round, made once.

    Args:
        folder: gets a part for these prompts, whose path is returned.
        device: where to render; by default a GPU if there is one.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    folder = folder / digest[:8]
    if folder.is_dir():
        return folder
    with replacing(folder) as made:
        made.mkdir()
        for number, prompt in enumerate(track(prompts, "true creatures")):
            for index, picture in enumerate(_pictures(prompt, number, device)):
                Image.fromarray(picture.numpy()).save(made / f"{number:02d}-{index:03d}.png")
    return folder


@torch.no_grad()
def _pictures(prompt: str, seed: int, device: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    azimuths = torch.arange(VIEWS) * 360.0 / VIEWS
    c2w = orbit_cameras(
        azimuths, torch.full((VIEWS,), ELEVATION_DEG), torch.full((VIEWS,), DISTANCE)
    )
    behind = torch.tensor(DEFAULT_BACKGROUND)
    pictures = []
    for _ in range(CREATURES):
        stretch = torch.randn(1, 4, generator=generator).clamp(-2, 2)
        objects = build(replace(parse(prompt), stretch=stretch))
        objects = objects[:, objects.present[0]].to(device)
        for pose in c2w.to(device).split(4):
            same = objects[torch.zeros(len(pose), dtype=torch.long, device=device)]
            fovy = torch.full((len(pose),), FOVY_DEG, device=device)
            rgb = render(same, pose, fovy, behind.to(device).expand(len(pose), 3), SIZE)
            pictures += rgb.permute(0, 2, 3, 1).mul(255).round().to("cpu", torch.uint8).unbind()
    return pictures
