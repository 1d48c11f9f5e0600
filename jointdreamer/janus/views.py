"""Looks at an asset from all round: renders a run's checkpoint, or takes its turntable."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from rich.progress import track
from torch import Tensor

from ..runs import Run

AZIMUTHS_DEG = tuple(15.0 * i for i in range(24))
ELEVATIONS_DEG = (0.0, 15.0, 30.0)
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Views:
    """Frames of one asset and where their cameras stand."""

    frames: Float[Tensor, "V H W 3"]
    azimuths_deg: Float[Tensor, " V"]
    elevations_deg: Float[Tensor, " V"]
    source: str


def views_of(asset: Path, size: int = 128, device: str | None = None) -> Views:
    """The views of an asset.

    A run with a checkpoint is rendered at 24 azimuths and 3 elevations; a run without one shows
    its turntable. Any other folder of pictures is taken for a turntable: in the order of the
    numbers in their names, evenly spaced from azimuth 0, the last one at 360 degrees as the first.

    Args:
        asset: a run's folder, or a folder of pictures.
        size: height and width in pixels of what is rendered.
        device: where to render; by default a GPU if there is one.

    Raises:
        FileNotFoundError: there is nothing to look at.
    """
    if not asset.is_dir():
        raise FileNotFoundError(f"{asset} is no folder. Give a run's folder or one of pictures.")
    checkpoint = asset / "ckpts" / "last.ckpt"
    if checkpoint.is_file() and (asset / "configs" / "parsed.yaml").is_file():
        return render_run(asset, checkpoint, size, device)
    if (asset / "save").is_dir():
        return read_turntable(Run(asset).newest("test"))
    return read_turntable(asset)


def read_turntable(folder: Path) -> Views:
    """Frames that go once round, the last at the place of the first; of wide ones the left square.

    The elevation is not known, and given as 0.

    Raises:
        FileNotFoundError: the folder holds no pictures.
        ValueError: the pictures differ in size.
    """
    paths = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES]
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds no {', '.join(PICTURES)}. Give a run's folder or a turntable's."
        )
    frames = [_left_square(path) for path in sorted(paths, key=_by_number)]
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError(f"The pictures in {folder} differ in size: they are no turntable.")
    azimuths = torch.linspace(0.0, 360.0, len(frames))
    stacked = torch.from_numpy(np.stack(frames)).float() / 255
    return Views(stacked, azimuths, torch.zeros_like(azimuths), str(folder))


def _by_number(path: Path) -> tuple[int, str]:
    return (int(path.stem) if path.stem.isdigit() else -1, path.name)


def _left_square(path: Path) -> np.ndarray:
    with Image.open(path) as frame:
        return np.asarray(frame.convert("RGB"))[:, : frame.height]


@torch.no_grad()
def render_run(folder: Path, checkpoint: Path, size: int, device: str | None = None) -> Views:
    """Renders a run's checkpoint through its own system, with its own field of view and distance.

    Raises:
        ValueError: the host cannot read the run's config or checkpoint.
    """
    import threestudio
    from threestudio.data.uncond import RandomCameraDataset
    from threestudio.utils.config import load_config

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    cfg = load_config(str(folder / "configs" / "parsed.yaml"))
    system = _load_system(cfg, checkpoint).to(device)
    frames, azimuths, elevations = [], [], []
    for elevation in ELEVATIONS_DEG:
        look = {
            "eval_elevation_deg": elevation,
            "eval_height": size,
            "eval_width": size,
            "n_val_views": len(AZIMUTHS_DEG),
        }
        data_cfg = threestudio.find(cfg.data_type)({**cfg.data, **look}).cfg
        dataset = RandomCameraDataset(data_cfg, "val")
        for batch in track(list(_batches(dataset)), f"{folder.name} at {elevation:.0f}°"):
            batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            frames.append(system(batch)["comp_rgb"].float().clamp(0, 1).cpu())
            azimuths.append(batch["azimuth"].float().cpu())
            elevations.append(batch["elevation"].float().cpu())
    return Views(torch.cat(frames), torch.cat(azimuths), torch.cat(elevations), str(checkpoint))


def _batches(dataset: Any, size: int = 4) -> Iterator[dict[str, Any]]:
    for start in range(0, len(dataset), size):
        stop = min(start + size, len(dataset))
        yield dataset.collate([dataset[index] for index in range(start, stop)])


def _load_system(cfg: Any, checkpoint: Path) -> Any:
    """The run's system with its weights, ready to render; priors are not loaded."""
    import threestudio
    from threestudio.utils.misc import load_module_weights

    system = threestudio.find(cfg.system_type)(cfg.system, resumed=True)
    state_dict, epoch, step = load_module_weights(str(checkpoint), map_location="cpu")
    system.load_state_dict(state_dict, strict=False)
    system.set_resume_status(epoch, step)
    system.do_update_step(epoch, step, on_load_weights=True)
    return system.eval()
