"""Schedules, devices, parts of checkpoints."""

import pytest
import torch
from omegaconf import OmegaConf
from threestudio.utils import misc
from threestudio.utils.misc import C, load_module_weights

PIECES = [0, 0.0, 1.0, 10, 5.0, 20, 0.0, 30]  # join at their knots


@pytest.mark.parametrize(
    ("schedule", "epoch", "steps", "values"),
    [
        (3, 0, [10], [3]),
        (0.5, 7, [10], [0.5]),
        ([100, 1.0, 3.0, 200], 0, [0, 100, 150, 200, 999], [1.0, 1.0, 2.0, 3.0, 3.0]),
        ([1.0, 3.0, 200], 0, [0, 100], [1.0, 2.0]),  # three numbers start at step 0
        ([0, 0.0, 1.0, 10.0], 5, [9999], [0.5]),  # a float end counts epochs
        ([10, 1.0, 2.0, 10], 0, [9, 10, 11], [1.0, 2.0, 2.0]),  # a step of no length switches
        (PIECES, 0, [0, 5, 10, 15, 20, 25, 30, 99], [0.0, 0.5, 1.0, 3.0, 5.0, 2.5, 0.0, 0.0]),
    ],
)
def test_a_schedule_is_linear_between_its_steps_and_constant_outside(
    schedule, epoch, steps, values
):
    assert [C(schedule, epoch, step) for step in steps] == pytest.approx(values)


@pytest.mark.parametrize("schedule", [[1.0], [1.0, 2.0], [0, 1.0, 2.0, 3, 4.0], []])
def test_a_schedule_of_the_wrong_length_is_told_with_its_key(schedule):
    root = OmegaConf.create({"system": {"guidance": {"guidance_scale": schedule}}})
    with pytest.raises(
        ValueError, match=rf"system\.guidance\.guidance_scale=.*{len(schedule)} num"
    ):
        C(root.system.guidance.guidance_scale, 0, 0)


def test_the_rank_is_read_from_the_first_variable_set(monkeypatch):
    for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        monkeypatch.delenv(key, raising=False)
    assert misc.get_rank() == 0
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert misc.get_rank() == 1


def test_the_device_is_the_cpu_without_a_gpu_and_the_ranks_gpu_with_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert misc.get_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert misc.get_device() == torch.device("cuda:1")


@pytest.fixture
def checkpoint(tmp_path):
    weights = {
        "geometry.encoding.params": torch.ones(3),
        "geometry_extra.x": torch.zeros(1),
        "background.y": torch.full((2,), 2.0),
    }
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": weights, "epoch": 1, "global_step": 70}, path)
    return str(path)


def test_mistakes_about_weights_are_told_with_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'nowhere\.ckpt' does not exist"):
        load_module_weights("nowhere.ckpt")
    other = tmp_path / "other.ckpt"
    torch.save({"weights": torch.ones(1)}, other)
    with pytest.raises(ValueError, match=r"other\.ckpt' is no checkpoint of a training run"):
        load_module_weights(str(other))


def test_all_but_some_modules_are_read_with_their_prefix(checkpoint):
    weights, epoch, step = load_module_weights(checkpoint, ignore_modules=["geometry"])
    assert sorted(weights) == ["background.y", "geometry_extra.x"] and (epoch, step) == (1, 70)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_weights_are_told_with_the_file(checkpoint, keep):
    with open(checkpoint, "rb") as file:
        data = file.read()
    with open(checkpoint, "wb") as file:
        file.write(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"last\.ckpt' cannot be read .*truncated"):
        load_module_weights(checkpoint)
