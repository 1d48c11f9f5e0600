"""Folders as finished runs leave them: config, log, turntable."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

N_TEST_VIEWS = 9


def write_run(
    folder: Path,
    prompt: str,
    pictures: list[np.ndarray],
    name: str = "jsd",
    seed: int = 0,
    beside: int = 0,
    size: tuple[int, int] | None = None,
    grad_norms: list[float] | None = None,
    step: int = 20,
) -> Path:
    """A run's folder; `beside` white squares stand at the right of each render, as normals do."""
    width, height = size or (pictures[0].shape[1], pictures[0].shape[0])
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "parsed.yaml").write_text(
        f"name: {name}\nseed: {seed}\n"
        f"data: {{n_test_views: {len(pictures)}, eval_width: {width}, eval_height: {height}}}\n"
        f"system: {{prompt_processor: {{prompt: {json.dumps(prompt)}}}}}\n"
    )
    frames = folder / "save" / f"it{step}-test"
    frames.mkdir(parents=True)
    for index, picture in enumerate(pictures):
        blank = np.full_like(picture, 255)
        Image.fromarray(np.concatenate([picture, *[blank] * beside], axis=1)).save(
            frames / f"{index}.png"
        )
    if grad_norms is not None:
        log = folder / "csv_logs" / "version_0"
        log.mkdir(parents=True)
        rows = [f"{5 * i},{value}" for i, value in enumerate(grad_norms)]
        (log / "metrics.csv").write_text("\n".join(["step,train/grad_norm", *rows]))
    return folder


def write_turntable(folder: Path, count: int, value: int = 0, step: int = 10) -> None:
    """Frames of grey `value`, `value + step`, ..., a white square at the right of each."""
    folder.mkdir(parents=True)
    for index in range(count):
        frame = np.full((8, 16, 3), value + step * index, np.uint8)
        frame[:, 8:] = 255
        Image.fromarray(frame).save(folder / f"{index}.png")


def turntable_of(prompt: str, size: int = 64) -> list[np.ndarray]:
    """The true creature of a caption all round, the first view again at the end."""
    from jointdreamer.tinyworld.captions import parse
    from jointdreamer.tinyworld.creatures import build
    from jointdreamer.tinyworld.renderer import orbit_cameras, render

    n = N_TEST_VIEWS
    c2w = orbit_cameras(torch.linspace(0, 360, n), torch.full((n,), 15.0), torch.full((n,), 2.75))
    objects = build(parse(prompt))[torch.zeros(n, dtype=torch.long)]
    rgb = render(objects, c2w, torch.full((n,), 40.0), torch.full((n, 3), 0.85), size)
    return list(rgb.permute(0, 2, 3, 1).mul(255).round().to(torch.uint8).numpy())
