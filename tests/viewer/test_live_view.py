"""Looking at a run while it trains: what is drawn when, and what it leaves in the run."""

import random
from math import radians
from pathlib import Path
from queue import SimpleQueue
from unittest.mock import MagicMock

import numpy as np
import pytest
import threestudio
import torch
from helpers.tiny_run import logged, write_tiny_config
from omegaconf import OmegaConf

from jointdreamer import cli
from jointdreamer.host.launcher import run
from jointdreamer.viewer import live
from jointdreamer.viewer.live import LiveView
from jointdreamer.viewer.rendering import Viewpoint, evaluating
from jointdreamer.viewer.requests import MOVING, SHARE, SMALLEST, RenderRequests

VIEW = Viewpoint((2.75, 0.0, 0.7), (0.0, 0.0, 0.0), (0.0, 0.0, 1.0), radians(40), 2.0)


def page_of(clients: int = 1, **attributes) -> MagicMock:
    """A page that so many look at."""
    page = MagicMock(requests=RenderRequests(), changes=SimpleQueue(), image="render", size=16)
    page.configure_mock(**{"paused": False, "stopped": False, **attributes})
    for client in range(clients):
        page.requests.look(client, VIEW)
    return page


def sent(page: MagicMock) -> list[np.ndarray]:
    return [call.args[1] for call in page.send.call_args_list]


def said(page: MagicMock) -> list[str]:
    return [call.args[0] for call in page.say.call_args_list]


@pytest.fixture
def train(tmp_path, sd_folder, mv_folder):
    """`train(page, *overrides)`: a run of four steps with this page, in a folder of its name."""
    small = {"n_test_views": 2, "eval_height": 4, "eval_width": 4}
    config = write_tiny_config(tmp_path / "config.yaml", sd_folder, mv_folder, data=small)

    def train(page, *overrides, folder="run", **options):
        trial = tmp_path / "outputs" / "tiny" / folder
        view = [] if page is None else [LiveView(page, trial, **options)]
        argv = ["--config", str(config), "--train", "trainer.max_steps=4", f"tag={folder}"]
        return run([*argv, "trainer.val_check_interval=2", *overrides], view)

    return train


def test_a_run_that_was_looked_at_is_bit_equal_and_one_alone_draws_nothing(train):
    page, alone = page_of(), page_of(clients=0)
    runs = [train(page, folder="seen"), train(alone, folder="alone"), train(None)]
    assert len(sent(page)) > 1 and sent(page)[0].shape == (8, 16, 3)
    assert not np.array_equal(sent(page)[0], sent(page)[-1])  # the weights moved
    assert not (alone.send.called or alone.say.called or alone.show_curves.called)
    assert alone.close.call_count == 1
    assert "Step 1 of 4 · training · guidance_scale 3 · energy_weight 0.5" in said(page)
    assert said(page)[-1].startswith("Step 4 of 4 · testing")
    assert "train/loss_sds" in page.show_curves.call_args.args[0]
    states = [torch.load(each["ckpt"], weights_only=True) for each in runs]
    seen, unseen, plain = ([s["state_dict"], s["optimizer_states"][0]["state"]] for s in states)
    torch.testing.assert_close([seen, unseen], [plain, plain], rtol=0, atol=0)


def test_a_number_held_from_the_page_stays_and_the_finished_run_can_be_looked_at(
    train, monkeypatch
):
    page, change = page_of(), ("energy_weight", 0.25)
    page.say = lambda status: status.startswith("Step 1 ") and page.changes.put(change)
    result = train(page)
    numbers = dict(call.args for call in page.add_number.call_args_list)
    assert numbers == {"guidance_scale": 3.0, "energy_weight": 0.0}
    config = OmegaConf.load(Path(result["trial_dir"], "configs", "parsed.yaml"))
    assert config.system.guidance.energy_weight == [0, 0.0, 0.5, 1, 0.25, 2]
    again = run(["--train", f"resume={result['trial_dir']}", "trainer.max_steps=5"])
    weight = logged(again["trial_dir"])["train/energy_weight"]
    assert weight == {0: 0.0, 1: 0.5, 2: 0.25, 3: 0.25, 4: 0.25}

    page = page_of()
    page.requests.wait = MagicMock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(live, "open_page", lambda *args, **kwargs: page)
    assert cli.main(["view", again["trial_dir"]]) == 130
    assert len(sent(page)) == 1 and said(page)[0].startswith("Step 5 · ") and page.close.called


def test_a_pause_waits_and_counts_for_nothing_and_a_stop_leaves_a_checkpoint(train, tmp_path):
    page, waited, seconds = page_of(paused=True, image="normal"), [], []

    def wait(_):
        waited.append(1)
        page.paused, page.stopped = len(waited) < 3, len(waited) == 3

    page.requests.wait = wait
    plain = ["system.material_type=no-material", "system.loss.lambda_orient=0"]
    with pytest.raises(SystemExit, match="130"):
        train(page, *plain, left_out=seconds.append)
    assert len(waited) == 3 and seconds[0] > 0 and page.close.called
    assert said(page)[0].startswith("Step 1 of 4 · paused · ") and not page.send.called
    assert said(page)[-1].endswith("no picture: this run's renderer and material draw no normal")
    last = tmp_path / "outputs" / "tiny" / "run" / "ckpts" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 2


class Renderer(torch.nn.Module):
    """As threestudio's: `train` sets more than the mode."""

    def train(self, mode=True):
        self.randomized = mode
        return super().train(mode)


def test_modes_and_random_states_are_as_they_were():
    system = torch.nn.Module()
    system.renderer, system.guidance = Renderer(), torch.nn.Dropout()
    system.renderer.frozen = torch.nn.Dropout().eval()
    with evaluating(system):
        assert not system.renderer.training and not system.renderer.randomized
        assert system.guidance.training and not torch.is_grad_enabled()
        drawn = [torch.rand(1).item(), np.random.rand(), random.random()]
    assert system.renderer.training and system.renderer.randomized
    assert not system.renderer.frozen.training
    assert drawn == [torch.rand(1).item(), np.random.rand(), random.random()]


def test_small_pictures_while_it_moves_a_large_one_at_rest_then_few():
    now = [0.0]
    requests = RenderRequests(clock=lambda: now[0])
    requests.look(7, VIEW)
    assert requests.due(0, 256) == [(7, VIEW, SMALLEST)]
    requests.drawn(7, VIEW, SMALLEST, 0, seconds=1e-3)
    assert requests.due(1, 256) == []  # newer weights wait for the rest
    now[0] = MOVING
    assert requests.due(1, 256) == [(7, VIEW, 256)]
    requests.drawn(7, VIEW, 256, 1, seconds=1.0)  # 256 x 128 pixels
    assert requests.due(2, 256) == []
    now[0] += 1 / SHARE
    assert requests.due(1, 256) == [] and requests.due(2, 256) == [(7, VIEW, 256)]
    requests.look(7, VIEW)
    ((_, _, size),) = requests.due(2, 256)
    assert size * size / 2 == pytest.approx(0.1 * 256 * 128, rel=0.05)
    requests.leave(7)
    assert requests.due(2, 256) == [] and len(requests) == 0


def test_a_view_is_the_turntables_camera_at_its_place():
    sizes = {"height": 4, "width": 4, "eval_height": 4, "eval_width": 8, "n_val_views": 3}
    data = threestudio.find("jointdreamer-multiview-camera-datamodule")(sizes)
    data.setup("validate")
    expected = data.val_dataset.collate([data.val_dataset[1]])
    place, fovy = expected["camera_positions"][0].tolist(), float(expected["fovy"])
    made = Viewpoint(place, (0.0, 0.0, 0.0), (0.0, 0.0, 1.0), fovy, 2.0).batch(8)
    assert {"rays_o", "rays_d", "mvp_mtx", "c2w", "elevation"} <= made.keys() & expected.keys()
    for key in made.keys() & expected.keys():
        torch.testing.assert_close(made[key], expected[key], rtol=1e-4, atol=1e-4)
