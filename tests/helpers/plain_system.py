"""A system as threestudio's own are: guidance, weighted losses, pictures; nothing of ours."""

from dataclasses import dataclass

import threestudio
from threestudio.systems.base import BaseLift3DSystem


@threestudio.register("plain-system")
class PlainSystem(BaseLift3DSystem):
    @dataclass
    class Config(BaseLift3DSystem.Config):
        pass

    cfg: Config

    def forward(self, batch):
        return self.renderer(**batch)

    def on_fit_start(self):
        super().on_fit_start()
        processor = threestudio.find(self.cfg.prompt_processor_type)
        self.prompt_processor = processor(self.cfg.prompt_processor)
        self.guidance = threestudio.find(self.cfg.guidance_type)(self.cfg.guidance)

    def training_step(self, batch, batch_idx):
        rgb = self(batch)["comp_rgb"]
        out = self.guidance(rgb, self.prompt_processor(), **batch, rgb_as_latents=False)
        losses = {name: value for name, value in out.items() if name.startswith("loss_")}
        weights = {name: self.cfg.loss[name.replace("loss_", "lambda_")] for name in losses}
        return {"loss": sum(self.C(weights[name]) * value for name, value in losses.items())}

    def validation_step(self, batch, batch_idx):
        self.save_view(f"it{self.true_global_step}-{int(batch['index'][0])}.png", batch)

    def test_step(self, batch, batch_idx):
        self.save_view(f"it{self.true_global_step}-test/{int(batch['index'][0])}.png", batch)

    def save_view(self, filename, batch):
        out = self(batch)
        opacity = {"cmap": None, "data_range": (0, 1)}
        cells = [{"type": "rgb", "img": out["comp_rgb"][0], "kwargs": {}}]
        cells.append({"type": "grayscale", "img": out["opacity"][0, ..., 0], "kwargs": opacity})
        self.save_image_grid(filename, cells, name="view", step=self.true_global_step)

    def on_test_epoch_end(self):
        folder = f"it{self.true_global_step}-test"
        self.save_img_sequence(folder, folder, r"(\d+)\.png", fps=30)
