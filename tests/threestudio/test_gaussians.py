"""The tiny Gaussians in the real threestudio: train, densify, resume, export, start from a NeRF."""

import math

import torch
import trimesh
from helpers.real_threestudio import PROMPT

STEPS, HALF = 12, 6


def arguments(name: str, action: str, *more: str) -> list[str]:
    return [
        *("--config", f"configs/tiny/{name}.yaml", f"--{action}"),
        *(f"system.prompt_processor.prompt={PROMPT}", f"trainer.max_steps={STEPS}"),
        *(f"trainer.val_check_interval={STEPS}", f"checkpoint.every_n_train_steps={HALF}"),
        *("trainer.log_every_n_steps=1", "data.n_test_views=9", *more),
    ]


def state(launched) -> dict[str, torch.Tensor]:
    return torch.load(launched.ckpt, weights_only=True, map_location="cpu")["state_dict"]


def test_gaussians_train_across_densifications_resume_and_export(launch):
    often = ["system.geometry.densify_from_iter=2", "system.geometry.densification_interval=4"]
    first = launch(
        arguments("gaussians", "train", *often, "tag=first", f"trainer.max_steps={HALF}")
    )
    assert state(first)["geometry.count"] == 1575
    again = launch(arguments("gaussians", "train", *often, "tag=again", f"resume={first.ckpt}"))
    assert state(again)["geometry.count"] == 1653
    losses = again.numbers["train/loss_sds"]
    assert len(losses) == STEPS - HALF and all(map(math.isfinite, losses.values()))
    assert (again.save_dir / f"it{STEPS}-test-contact-sheet.png").is_file()
    exported = launch(arguments("gaussians", "export", *often, f"resume={again.ckpt}"))
    files = exported.save_dir / f"it{STEPS}-export"
    assert (files / "model.glb").is_file() and len(trimesh.load(files / "model.ply").vertices) > 900


def test_gaussians_start_on_the_surface_of_a_volume(launch):
    volume = launch(arguments("jointdreamer", "train", "tag=volume", "trainer.max_steps=2"))
    start = [f"system.geometry_convert_from={volume.ckpt}", "tag=start", "trainer.max_steps=1"]
    positions = state(launch(arguments("gaussians", "train", *start)))["geometry.positions"][:1500]
    distances = positions.norm(dim=-1)
    assert distances.std() < 0.1 and 0.2 < distances.mean() < 0.4
