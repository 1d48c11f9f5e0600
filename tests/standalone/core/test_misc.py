"""Schedules, devices, parts of checkpoints."""

import pytest
import torch
from omegaconf import OmegaConf
from threestudio.utils import misc
from threestudio.utils.misc import C, load_module_weights


def test_a_number_is_a_constant_schedule():
    assert C(3, 0, 10) == 3 and C(0.5, 7, 10) == 0.5


@pytest.mark.parametrize("step, value", [(0, 1.0), (100, 1.0), (150, 2.0), (200, 3.0), (999, 3.0)])
def test_a_schedule_is_linear_between_its_steps_and_constant_outside(step, value):
    assert C([100, 1.0, 3.0, 200], 0, step) == pytest.approx(value)


def test_three_numbers_start_at_step_zero():
    assert C([1.0, 3.0, 200], 0, 100) == pytest.approx(2.0)


def test_a_float_end_counts_epochs():
    assert C([0, 0.0, 1.0, 10.0], 5, 9999) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "step, value",
    [(0, 0.0), (5, 0.5), (10, 1.0), (15, 3.0), (20, 5.0), (25, 2.5), (30, 0.0), (99, 0.0)],
)
def test_pieces_join_at_their_knots(step, value):
    assert C([0, 0.0, 1.0, 10, 5.0, 20, 0.0, 30], 0, step) == pytest.approx(value)


def test_a_step_of_no_length_switches():
    schedule = [10, 1.0, 2.0, 10]
    assert [C(schedule, 0, step) for step in (9, 10, 11)] == [1.0, 2.0, 2.0]


@pytest.mark.parametrize("schedule", [[1.0], [1.0, 2.0], [0, 1.0, 2.0, 3, 4.0], []])
def test_a_schedule_of_the_wrong_length_is_told_with_its_key(schedule):
    root = OmegaConf.create({"system": {"guidance": {"guidance_scale": schedule}}})
    with pytest.raises(
        ValueError, match=rf"system\.guidance\.guidance_scale=.*{len(schedule)} num"
    ):
        C(root.system.guidance.guidance_scale, 0, 0)


def test_other_schedules_are_refused():
    with pytest.raises(TypeError, match="a schedule is a number or a list"):
        C(OmegaConf.create({"a": 1}), 0, 0)


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


def test_cleanup_and_barrier_work_in_a_single_cpu_process():
    misc.cleanup()
    misc.barrier()


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


def test_one_module_is_read_without_its_prefix(checkpoint):
    weights, epoch, step = load_module_weights(checkpoint, module_name="geometry")
    assert list(weights) == ["encoding.params"] and (epoch, step) == (1, 70)


def test_all_but_some_modules_are_read_with_their_prefix(checkpoint):
    weights, _, _ = load_module_weights(checkpoint, ignore_modules=["geometry"])
    assert sorted(weights) == ["background.y", "geometry_extra.x"]
    assert len(load_module_weights(checkpoint)[0]) == 3


def test_mistakes_about_weights_are_told_with_the_file(checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'nowhere\.ckpt' does not exist"):
        load_module_weights("nowhere.ckpt")
    with pytest.raises(ValueError, match=r"no weights of 'material': it has background, geometry,"):
        load_module_weights(checkpoint, module_name="material")
    with pytest.raises(ValueError, match="exclude each other"):
        load_module_weights(checkpoint, module_name="a", ignore_modules=["b"])
    other = tmp_path / "other.ckpt"
    torch.save({"weights": torch.ones(1)}, other)
    with pytest.raises(ValueError, match=r"other\.ckpt' is no checkpoint of a training run"):
        load_module_weights(str(other))


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_weights_are_told_with_the_file(checkpoint, keep):
    with open(checkpoint, "rb") as file:
        data = file.read()
    with open(checkpoint, "wb") as file:
        file.write(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"last\.ckpt' cannot be read .*truncated"):
        load_module_weights(checkpoint)
