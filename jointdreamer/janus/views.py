"""Looks at an asset from all round: renders a run's checkpoint, or takes its turntable."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..progress import track
from ..runs import CHECKPOINT, CONFIG, Run, read_picture, turntable

AZIMUTHS_DEG = tuple(15.0 * i for i in range(24))
ELEVATIONS_DEG = (0.0, 15.0, 30.0)


@dataclass(frozen=True)
class AssetViews:
    """Frames of one asset and where their cameras stand."""

    frames: Float[Tensor, "V H W 3"]
    azimuths_deg: Float[Tensor, " V"]
    source: str


def views_of(asset: Path, size: int = 128, device: str | None = None) -> AssetViews:
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
    if (asset / CHECKPOINT).is_file() and (asset / CONFIG).is_file():
        return render_run(asset, size, device)
    if (asset / "save").is_dir():
        return read_turntable(Run(asset).newest("test"))
    return read_turntable(asset)


def read_turntable(folder: Path) -> AssetViews:
    """The frames of a turntable; without a record of their width the left square of wide ones.

    Raises:
        FileNotFoundError: the folder holds no pictures.
        ValueError: the pictures differ in size.
    """
    found = turntable(folder)
    frames = [read_picture(path, found.aspect or 1) for path in found.paths]
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError(f"The pictures in {folder} differ in size: they are no turntable.")
    stacked = torch.from_numpy(np.stack(frames)).float() / 255
    return AssetViews(stacked, torch.tensor(found.azimuths_deg), str(folder))


def render_run(folder: Path, size: int, device: str | None = None) -> AssetViews:
    """Renders a run's checkpoint through its own system, with its own field of view and distance.

    Raises:
        ValueError: the host cannot read the run's config or checkpoint.
    """
    cfg, system = load_run(folder, device)
    shown = run_cameras(folder, cfg, size)
    return render_views(system, shown, system.device, str(folder / CHECKPOINT))


def load_run(folder: Path, device: str | None = None) -> tuple[Any, Any]:
    """A run's config, and its system as its checkpoint left it, in eval mode; without priors.

    Raises: as `render_run`.
    """
    import threestudio
    from threestudio.utils.config import load_config
    from threestudio.utils.misc import load_module_weights

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    cfg, checkpoint = load_config(str(folder / CONFIG)), str(folder / CHECKPOINT)
    system = threestudio.find(cfg.system_type)(cfg.system, resumed=True)  # loads no priors
    state_dict, epoch, step = load_module_weights(checkpoint, map_location="cpu")
    system.load_state_dict(state_dict, strict=False)
    system.set_resume_status(epoch, step)
    system.do_update_step(epoch, step, on_load_weights=True)
    return cfg, system.eval().to(device)


def run_cameras(folder: Path, cfg: Any, size: int) -> Iterable[dict[str, Any]]:
    """The cameras that look at a run, with a bar."""
    batches = list(camera_batches(cfg, size, len(AZIMUTHS_DEG), ELEVATIONS_DEG))
    return track(batches, f"rendering {folder.name}")


def camera_batches(
    cfg: Any, size: int, n_azimuths: int, elevations_deg: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """Cameras of a config's own field of view and distance, evenly spaced round the asset."""
    import threestudio
    from threestudio.data.uncond import RandomCameraDataset

    for elevation in elevations_deg:
        view = {"eval_elevation_deg": elevation, "eval_height": size, "eval_width": size}
        changed = {**cfg.data, **view, "n_val_views": n_azimuths}
        data_cfg = threestudio.find(cfg.data_type)(changed).cfg
        dataset = RandomCameraDataset(data_cfg, "val")
        for rows in torch.arange(n_azimuths).split(4):
            yield dataset.collate([dataset[index] for index in rows.tolist()])


@torch.no_grad()
def render_views(
    render: Callable[[dict[str, Any]], dict[str, Tensor]],
    batches: Iterable[dict[str, Any]],
    device: str | torch.device,
    source: str,
) -> AssetViews:
    """What `render` makes of batches of cameras."""
    frames, azimuths = [], []
    for batch in batches:
        batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        frames.append(render(batch)["comp_rgb"].float().clamp(0, 1).cpu())
        azimuths.append(batch["azimuth"].float().cpu())
    return AssetViews(torch.cat(frames), torch.cat(azimuths), source)
