"""DreamFusion (Poole et al. 2022, arXiv 2209.14988): a NeRF trained by a guidance alone."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.systems.base import BaseLift3DSystem
from threestudio.utils.ops import binary_cross_entropy, dot


@threestudio.register("dreamfusion-system")
class DreamFusion(BaseLift3DSystem):
    """Any guidance with any renderer; a loss's weight is `loss.lambda_<its name>`, a schedule."""

    @dataclass
    class Config(BaseLift3DSystem.Config):
        pass

    cfg: Config

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self.renderer(**batch)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.prompt_processor = threestudio.find(self.cfg.prompt_processor_type)(
            self.cfg.prompt_processor
        )
        self.guidance = threestudio.find(self.cfg.guidance_type)(self.cfg.guidance)

    def training_step(self, batch, batch_idx):
        out = self(batch)
        guidance_out = self.guidance(
            out["comp_rgb"], self.prompt_processor(), **batch, rgb_as_latents=False
        )
        for name, value in guidance_out.items():
            if isinstance(value, int | float) or (torch.is_tensor(value) and value.numel() == 1):
                self.log(f"train/{name}", value)
        losses = {k: v for k, v in guidance_out.items() if k.startswith("loss_")}
        for name, value in self.regularizers(out).items():
            self.log(f"train/{name}", value)
            losses[name] = value
        for name, value in self.cfg.loss.items():
            self.log(f"train_params/{name}", self.C(value))
        return {"loss": sum(self.weight(name) * value for name, value in losses.items())}

    def weight(self, loss_name: str) -> float:
        """Now's weight of `loss_x`, from `loss.lambda_x`."""
        return self.C(self.cfg.loss[loss_name.replace("loss_", "lambda_", 1)])

    def regularizers(self, out: dict[str, Any]) -> dict[str, Float[Tensor, ""]]:
        """The losses on a rendering, not yet weighted.

        - orient: normals that face away from the camera (Ref-NeRF, arXiv 2112.03907, eq. 11),
          computed only while its weight is not zero, as it needs normals;
        - sparsity: sqrt(opacity^2 + 0.01);
        - opaque: entropy of the opacity;
        - z_variance: of the depth along rays that meet the object (HiFA, arXiv 2305.18766), if the
          renderer gives it and the config weighs it.

        Raises:
            ValueError: if the orientation loss is on and the renderer gives no normals.
        """
        opacity = out["opacity"]
        clamped = opacity.clamp(1e-3, 1 - 1e-3)
        losses = {
            "loss_sparsity": (opacity**2 + 0.01).sqrt().mean(),
            "loss_opaque": binary_cross_entropy(clamped, clamped),
        }
        if self.weight("loss_orient") > 0:
            if "normal" not in out:
                raise ValueError(
                    "system.loss.lambda_orient is on, but the renderer gives no normals: set "
                    "system.geometry.normal_type or system.loss.lambda_orient=0."
                )
            facing_away = dot(out["normal"], out["t_dirs"]).clamp_min(0.0) ** 2
            visible = out["weights"].detach() * facing_away
            losses["loss_orient"] = visible.sum() / (opacity > 0).sum().clamp_min(1)
        if "z_variance" in out and "lambda_z_variance" in self.cfg.loss:
            solid = opacity > 0.5
            losses["loss_z_variance"] = out["z_variance"][solid].sum() / solid.sum().clamp_min(1)
        return losses

    def validation_step(self, batch, batch_idx):
        self._save_views(batch, f"it{self.true_global_step}", "-", "validation_step")

    def test_step(self, batch, batch_idx):
        self._save_views(batch, f"it{self.true_global_step}-test", "/", "test_step")

    def _save_views(self, batch: dict, stem: str, separator: str, name: str) -> None:
        out = self(batch)
        for view, index in enumerate(batch["index"].tolist()):
            cells = [{"type": "rgb", "img": out["comp_rgb"][view], "kwargs": {}}]
            if "comp_normal" in out:
                cells.append({"type": "rgb", "img": out["comp_normal"][view], "kwargs": {}})
            opacity = {"cmap": None, "data_range": (0, 1)}
            cells.append(
                {"type": "grayscale", "img": out["opacity"][view, :, :, 0], "kwargs": opacity}
            )
            step = self.true_global_step
            self.save_image_grid(f"{stem}{separator}{index}.png", cells, name=name, step=step)

    def on_test_epoch_end(self) -> None:
        folder = f"it{self.true_global_step}-test"
        self.save_img_sequence(
            folder, folder, r"(\d+)\.png", fps=30, name="test", step=self.true_global_step
        )
