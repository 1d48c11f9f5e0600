"""Fits a NeRF to pictures of a planted creature: a soft asset whose faces are known."""

from pathlib import Path
from typing import Any

import threestudio
import torch
import torch.nn.functional as F
from jaxtyping import Float
from omegaconf import OmegaConf
from threestudio.data.uncond import RandomCameraDataset
from torch import Tensor

from ..paths import find_file
from .planted import Planted, photograph
from .views import AZIMUTHS_DEG, ELEVATIONS_DEG, Views

CONFIG = Path("configs/tiny/jointdreamer.yaml")
_SEEN_AZIMUTHS = 20  # other azimuths than the meter's
_SEEN_ELEVATIONS_DEG = (-5.0, 12.0, 35.0)
_RAYS = 64  # a batch is a square of this many rays a side
_RATES = {"geometry": 0.01, "encoding": 0.05}


def fit_nerf(planted: Planted, steps: int, seed: int, device: str = "cpu", size: int = 64) -> Views:
    """Renders of a NeRF after `steps` steps of least squares, as the meter takes them.

    Geometry, material, background and renderer are the host's, with the demo's settings; the NeRF
    sees 60 pictures, from other cameras than it is judged by.

    Args:
        steps: few leave the asset soft, as distillation does.
        seed: of the weights and the rays.
        size: of the pictures that it sees and of those it is judged by.
    """
    cfg = OmegaConf.load(find_file(CONFIG, "config"))
    torch.manual_seed(seed)
    renderer = _make_renderer(cfg.system).to(device)
    rays = _cameras(cfg, size, _SEEN_AZIMUTHS, _SEEN_ELEVATIONS_DEG)
    target = photograph(planted, rays["c2w"], size).flatten(0, 2).to(device)
    origins, directions = (rays[k].flatten(0, 2).to(device) for k in ("rays_o", "rays_d"))
    optimizer = torch.optim.AdamW(
        [
            {"params": renderer.geometry.encoding.parameters(), "lr": _RATES["encoding"]},
            {"params": renderer.geometry.density_network.parameters()},
            {"params": renderer.geometry.feature_network.parameters()},
        ],
        lr=_RATES["geometry"],
        betas=(0.9, 0.99),
        eps=1e-15,
    )
    renderer.train()
    for step in range(steps):
        renderer.do_update_step(0, step)
        rows = torch.randint(len(target), (_RAYS * _RAYS,), device=device)
        shape = (1, _RAYS, _RAYS, 3)
        out = renderer(
            rays_o=origins[rows].view(shape),
            rays_d=directions[rows].view(shape),
            light_positions=torch.zeros(1, 3, device=device),
        )
        loss = F.mse_loss(out["comp_rgb"].view(-1, 3), target[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return _look(renderer.eval(), cfg, size, device)


def _make_renderer(cfg: Any) -> Any:
    geometry = threestudio.find(cfg.geometry_type)(cfg.geometry)
    material = threestudio.find(cfg.material_type)(cfg.material)
    background = threestudio.find(cfg.background_type)({**cfg.background, "random_aug": False})
    return threestudio.find(cfg.renderer_type)(
        {**cfg.renderer, "radius": cfg.geometry.radius},
        geometry=geometry,
        material=material,
        background=background,
    )


def _cameras(cfg: Any, size: int, azimuths: int, elevations_deg: tuple) -> dict[str, Tensor]:
    batches = []
    for elevation in elevations_deg:
        data = {
            **OmegaConf.to_container(cfg.data),
            "eval_elevation_deg": elevation,
            "eval_height": size,
            "eval_width": size,
            "n_val_views": azimuths,
        }
        dataset = RandomCameraDataset(threestudio.find(cfg.data_type)(data).cfg, "val")
        batches.append(dataset.collate([dataset[index] for index in range(azimuths)]))
    keys = ("rays_o", "rays_d", "c2w", "light_positions", "azimuth", "elevation")
    return {key: torch.cat([batch[key] for batch in batches]) for key in keys}


@torch.no_grad()
def _look(renderer: Any, cfg: Any, size: int, device: str) -> Views:
    cameras = _cameras(cfg, size, len(AZIMUTHS_DEG), ELEVATIONS_DEG)
    frames: list[Float[Tensor, "b H W 3"]] = []
    for rows in torch.arange(len(cameras["azimuth"])).split(8):
        out = renderer(
            **{
                key: cameras[key][rows].to(device)
                for key in ("rays_o", "rays_d", "light_positions")
            }
        )
        frames.append(out["comp_rgb"].clamp(0, 1).cpu())
    return Views(torch.cat(frames), cameras["azimuth"], cameras["elevation"], "fitted")
