"""BaseLift3DSystem, with parts that are as simple as parts can be."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import imageio.v2 as imageio
import pytest
import pytorch_lightning as pl
import threestudio
import torch
from helpers.plain_system import PlainSystem
from omegaconf import OmegaConf
from threestudio.models.geometry.base import BaseGeometry
from threestudio.utils.base import BaseModule, BaseObject
from torch.utils.data import DataLoader

VIEW = {"c2w": torch.eye(4)[None], "height": 4, "width": 8}


@threestudio.register("core-geometry")
class Geometry(BaseGeometry):
    @dataclass
    class Config(BaseGeometry.Config):
        density: float = 1.0

    def configure(self):
        self.density = torch.nn.Parameter(torch.tensor(self.cfg.density))
        self.updates = []

    def update_step(self, epoch, global_step, on_load_weights=False):
        self.updates.append(global_step)


@threestudio.register("core-part")
class Part(BaseModule):
    def configure(self, **others):
        self.others = SimpleNamespace(**others)


@threestudio.register("core-renderer")
class Renderer(Part):
    """A picture whose opacity is the density in the left half."""

    def forward(self, height, width, index=None, c2w=None, **batch):
        count = len(c2w)
        opacity = torch.zeros(count, height, width, 1)
        opacity[:, :, : width // 2] = 1.0
        opacity = opacity * self.others.geometry.density
        return {"comp_rgb": opacity.expand(-1, -1, -1, 3), "opacity": opacity}


@threestudio.register("core-guidance")
class Guidance(BaseObject):
    def __call__(self, rgb, prompt_utils, rgb_as_latents, c2w, **batch):
        assert prompt_utils == "prompts" and rgb_as_latents is False and "height" in batch
        return {"loss_sds": (rgb**2).sum(), "grad_norm": torch.ones(1), "eval": torch.ones(3)}


@threestudio.register("core-prompts")
class Prompts(BaseObject):
    def __call__(self):
        return "prompts"


@threestudio.register("core-exporter")
class Exporter(BaseObject):
    @dataclass
    class Config:
        save_video: bool = False
        save_type: str = "text"

    def configure(self, geometry, material, background):
        self.geometry = geometry

    def __call__(self):
        params = {"text": str(self.geometry.density.item())}
        return [SimpleNamespace(save_name="m.txt", save_type=self.cfg.save_type, params=params)]


class System(PlainSystem):
    def save_text(self, filename, text):
        Path(self.get_save_path(filename)).write_text(text)


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader([VIEW] * 3, batch_size=None)

    def val_dataloader(self):
        views = [{**VIEW, "index": torch.tensor([index])} for index in range(3)]
        return DataLoader(views, batch_size=None)

    test_dataloader = predict_dataloader = val_dataloader


def config(**changes):
    parts = {"geometry": "core-geometry", "renderer": "core-renderer", "guidance": "core-guidance"}
    parts |= {"material": "core-part", "background": "core-part", "exporter": "core-exporter"}
    parts |= {"prompt_processor": "core-prompts"}
    base = {f"{part}_type": name for part, name in parts.items()}
    base["loss"] = {"lambda_sds": 1.0}
    base["optimizer"] = {"name": "SGD", "args": {"lr": 0.01}, "params": {"geometry": {}}}
    return OmegaConf.merge(base, changes)


def trainer(tmp_path, **more):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
        **more,
    )


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_system_trains_validates_tests_and_exports(tmp_path):
    system = System(config(exporter={"save_video": True}))
    system.set_save_dir(str(tmp_path))
    run = trainer(tmp_path, max_steps=3, val_check_interval=2)
    run.fit(system, Data())
    # d/dρ of 3 * 16 * ρ² at a learning rate of 0.01
    assert float(system.geometry.density.detach()) == pytest.approx((1 - 0.96) ** 3, rel=1e-4)
    assert {0, 1, 2} <= set(system.geometry.updates)
    assert imageio.imread(tmp_path / "it2-0.png").shape == (4, 16, 3)
    run.test(system, Data())
    assert (tmp_path / "it3-test" / "2.png").is_file()
    assert len(imageio.mimread(tmp_path / "it3-test.mp4")) == 3
    (tmp_path / "it3-test.mp4").unlink()
    run.predict(system, Data())
    assert (tmp_path / "it3-test.mp4").is_file()
    saved = float((tmp_path / "it3-export" / "m.txt").read_text())
    assert saved == pytest.approx(float(system.geometry.density.detach()))


def test_an_evaluated_checkpoint_keeps_its_step():
    system = System(config())
    assert (system.true_current_epoch, system.true_global_step) == (0, 0)
    system.set_resume_status(2, 500)
    assert (system.true_current_epoch, system.true_global_step) == (2, 500)
    assert system.C([0, 0.0, 1.0, 1000]) == 0.5
    assert system.resumed is False and System(config(), resumed=True).resumed


def test_weights_of_another_run_are_taken_over_except_for_some_modules(tmp_path):
    path = tmp_path / "last.ckpt"
    weights = {"geometry.density": torch.tensor(7.0)}
    torch.save({"state_dict": weights, "epoch": 0, "global_step": 11}, path)
    system = System(config(weights=str(path)))
    assert system.geometry.density.item() == 7 and system.geometry.updates == [11]
    ignoring = System(config(weights=str(path), weights_ignore_modules=["geometry"]))
    assert ignoring.geometry.density.item() == 1


@threestudio.register("core-remade-geometry")
class RemadeGeometry(Geometry):
    @staticmethod
    def create_from(other, cfg=None, copy_net=True, **kwargs):
        made = RemadeGeometry(cfg)
        made.density.data.fill_(100 * other.density.item() + copy_net)
        return made


def test_another_runs_geometry_is_remade(tmp_path):
    path, made = tmp_path / "ckpts" / "last.ckpt", "core-remade-geometry"
    path.parent.mkdir()
    weights = {"geometry.density": torch.tensor(7.0), "material.geometry.x": torch.ones(1)}
    torch.save({"state_dict": weights, "epoch": 0, "global_step": 11}, path)
    with pytest.raises(FileNotFoundError, match=r"convert_from=.*parsed\.yaml is missing"):
        System(config(geometry_type=made, geometry_convert_from=str(path)))
    (tmp_path / "configs").mkdir()
    OmegaConf.save({"system": config()}, tmp_path / "configs" / "parsed.yaml")
    remade = {"geometry_type": made, "geometry_convert_from": str(path)}
    assert System(config(**remade)).geometry.density.item() == 700
    inherits = config(**remade, geometry_convert_inherit_texture=True)
    assert System(inherits).geometry.density.item() == 701
    assert System(inherits, resumed=True).geometry.density.item() == 1
    with pytest.raises(ValueError, match=r"last\.ckpt holds core-geometry.*system\.weights"):
        System(config(geometry_convert_from=str(path)))


def test_mistakes_are_told():
    system = System(config(exporter={"save_type": "fbx"}))
    system.on_predict_start()
    with pytest.raises(ValueError, match="core-exporter wants to save a 'fbx'"):
        system.on_predict_epoch_end()
    with pytest.raises(ValueError, match=r"geometri: .*has no key 'geometri'.*'geometry'"):
        System(config(geometri={}))
