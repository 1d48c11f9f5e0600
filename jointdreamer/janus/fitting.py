"""Fits a NeRF to pictures of a synthetic asset: a soft asset whose faces are known."""

import threestudio
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from ..paths import find_file
from .synthetic import SyntheticAsset, photograph
from .views import AZIMUTHS_DEG, ELEVATIONS_DEG, AssetViews, camera_batches, render_views

CONFIG = "configs/tiny/jointdreamer.yaml"
_SEEN_AZIMUTHS = 20  # other azimuths than the meter's
_SEEN_ELEVATIONS_DEG = (-5.0, 12.0, 35.0)
_RAYS = 64  # a batch is a square of this many rays a side
_RATES = {"encoding": 0.05, "density_network": 0.01, "feature_network": 0.01}


def fit_nerf(
    asset: SyntheticAsset, steps: int, seed: int, device: str = "cpu", size: int = 64
) -> AssetViews:
    """Renders of a NeRF after `steps` steps of least squares, as the meter takes them.

    Geometry, material, background and renderer are the host's, with the demo's settings; the NeRF
    sees 60 pictures, from other cameras than it is judged by.

    Args:
        steps: few leave the asset soft, as distillation does.
        seed: of the weights and the rays.
        size: of the pictures that it sees and of those it is judged by.
    """
    cfg = OmegaConf.load(find_file(CONFIG, "config"))
    cfg.system.background.random_aug = False
    torch.manual_seed(seed)
    system = threestudio.find(cfg.system_type)(cfg.system, resumed=True).to(device)  # no priors
    geometry = system.geometry
    seen = list(camera_batches(cfg, size, _SEEN_AZIMUTHS, _SEEN_ELEVATIONS_DEG))

    def all_rays(key: str) -> Tensor:
        return torch.cat([batch[key] for batch in seen]).flatten(0, 2).to(device)

    origins, directions = all_rays("rays_o"), all_rays("rays_d")
    c2w = torch.cat([batch["c2w"] for batch in seen])
    target = photograph(asset, c2w, size).flatten(0, 2).to(device)
    groups = [
        {"params": getattr(geometry, name).parameters(), "lr": rate}
        for name, rate in _RATES.items()
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-15)
    system.train()
    for step in range(steps):
        system.do_update_step(0, step)
        rows = torch.randint(len(target), (_RAYS * _RAYS,), device=device)
        shape = (1, _RAYS, _RAYS, 3)
        out = system.renderer(
            rays_o=origins[rows].view(shape),
            rays_d=directions[rows].view(shape),
            light_positions=torch.zeros(1, 3, device=device),
        )
        loss = F.mse_loss(out["comp_rgb"].view(-1, 3), target[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    judged = camera_batches(cfg, size, len(AZIMUTHS_DEG), ELEVATIONS_DEG)
    return render_views(system.eval(), judged, device, "fitted")
