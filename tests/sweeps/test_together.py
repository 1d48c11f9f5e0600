"""Runs that share a process are what they would be by themselves, but for the guidance's noise."""

import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import threestudio
import torch
from helpers.sweeps import write_sweep
from helpers.tiny_run import tiny_config, write_tiny_config
from threestudio_jointdreamer.guidance.jsd import JointScoreDistillation

from jointdreamer.cli import main
from jointdreamer.host import launcher
from jointdreamer.runs import Run
from jointdreamer.sweeps import together
from jointdreamer.sweeps.plan import read_sweep
from jointdreamer.sweeps.records import Record, read_json
from jointdreamer.sweeps.together import BatchedGuidance, JointPrompts, Scheduler, next_batch
from jointdreamer.testing.cameras import camera_ring
from jointdreamer.testing.prompts import RandomPrompts

V = 2


@pytest.fixture
def guidance(tmp_path, sd_folder, mv_folder):
    system = tiny_config(sd_folder, mv_folder, tmp_path)["system"]
    found = threestudio.find(system["guidance_type"])(system["guidance"])
    found.do_update_step(0, 4)  # where its energy has a weight
    return found


def call(guidance, seed):
    """Numbers and gradient of one object, whose loss is scaled."""
    torch.manual_seed(seed)
    rgb = torch.rand(V, 16, 16, 3, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    out = guidance(rgb, RandomPrompts(seed), **camera_ring(1, V), height=16)
    (2 * out["loss_sds"]).backward()
    return {name: torch.as_tensor(value).detach() for name, value in out.items()}, rgb.grad


def call_together(guidance, seeds):
    found, scheduler = {}, Scheduler()

    def work(seed, run):
        found[seed] = call(BatchedGuidance(guidance, run), seed)

    for seed in seeds:
        scheduler.add(partial(work, seed))
    scheduler.run()
    return [found[seed] for seed in seeds]


def test_alone_a_run_gets_what_its_guidance_gives_to_the_last_bit(guidance):
    (found,) = call_together(guidance, [5])
    torch.testing.assert_close(found, call(guidance, 5), rtol=0, atol=0)


def test_each_run_gets_what_its_guidance_gives_with_its_part_of_the_noise(guidance, monkeypatch):
    drawn = {}

    def draw(name, original, *args, **kwargs):
        if kwargs.get("generator") is not None:
            return original(*args, **kwargs)
        return drawn.setdefault(name, original(*args, **kwargs))

    sizes = {"randint": 1, "randn": V, "randn_like": V}  # t, the VAE's noise, and ε
    for name in sizes:
        monkeypatch.setattr(torch, name, partial(draw, name, getattr(torch, name)))
    found = call_together(guidance, [5, 6, 7])
    of_all = drawn.copy()
    for index, seed in enumerate((5, 6, 7)):
        drawn |= {name: of_all[name].split(size)[index] for name, size in sizes.items()}
        expected, gradient = call(guidance, seed)
        torch.testing.assert_close(found[index][0], expected, rtol=1e-4, atol=1e-5)
        assert (found[index][1] - gradient).norm() < 1e-4 * gradient.norm()
    assert len({float(out["grad_norm"]) for out, _ in found}) == 3


@pytest.mark.parametrize("perp_neg", [False, True])
def test_joint_prompts_are_those_of_every_run_kind_by_kind(perp_neg):
    prompts, n = [RandomPrompts(seed, perp_neg=perp_neg) for seed in (0, 1)], 2 * V
    cameras = [torch.full([2 * n], 10.0), 30 * torch.arange(2.0 * n), torch.ones(2 * n)]
    both = JointPrompts(prompts, n_object=2)
    assert len(both.text_embeddings) == 4 and both.use_perp_neg == perp_neg
    method = "get_text_embeddings_perp_neg" if perp_neg else "get_text_embeddings"
    found = getattr(both, method)(*cameras, True)
    of_each = zip(*(values.split(n) for values in cameras), strict=True)
    alone = [getattr(p, method)(*own, True) for p, own in zip(prompts, of_each, strict=True)]
    if perp_neg:
        assert torch.equal(found[1], torch.cat([weights for _, weights in alone]))
        found, alone = found[0], [embeddings for embeddings, _ in alone]
    for kind in (slice(0, n), slice(n, 2 * n), slice(2 * n, None)):
        expected = torch.cat([embeddings[kind] for embeddings in alone])
        assert torch.equal(found[2 * kind.start :][: len(expected)], expected)


def test_joint_prompts_have_the_picture_of_every_object():
    prompts = [RandomPrompts(seed) for seed in (0, 1)]
    assert JointPrompts(prompts).image is None
    for prompt in prompts:
        prompt.image = torch.rand(4, 8, 8)
    image = JointPrompts(prompts, n_object=2).image
    assert torch.equal(image, torch.stack([prompts[i].image for i in (0, 0, 1, 1)]))


def test_joint_prompts_ask_another_text_encoder_for_every_run():
    prompts, others = ([RandomPrompts(seed) for seed in seeds] for seeds in ((0, 1), (2, 3)))
    for prompt, other in zip(prompts, others, strict=True):
        prompt.encoded_by = {"another": other}.__getitem__
    found = JointPrompts(prompts, n_object=2).encoded_by("another").text_embeddings
    assert torch.equal(found, torch.cat([others[i].text_embeddings for i in (0, 0, 1, 1)]))


def request(step, size=1, scale=5.0):
    guidance = SimpleNamespace(method=JointScoreDistillation(guidance_scale=scale))
    return SimpleNamespace(step=step, views={"rgb": torch.zeros(size)}, guidance=guidance)


def test_runs_that_are_behind_come_first_and_other_guidances_are_refused():
    calls = ((8, 2), (6, 2), (6, 2), (6, 3), (6, 2, 6.0))  # a larger render, another scale
    runs = [SimpleNamespace(request=request(*of)) for of in calls]
    assert next_batch(runs) == runs[1:3] == runs[1].batch
    with pytest.raises(ValueError, match="leave --together out"):
        BatchedGuidance(None, None)


def test_threads_run_one_at_a_time_with_random_numbers_of_their_own(monkeypatch):
    monkeypatch.setattr(together, "distil_batch", lambda requests: [len(requests)] * len(requests))
    running = threading.Lock()

    def work(found, seed, run):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        for step in range(seed):
            assert running.acquire(blocking=False)
            numbers = (torch.rand(1).item(), float(np.random.rand()), random.random())
            time.sleep(0.01)
            running.release()
            found.append((numbers, run.ask(request(step))))

    def draws(*seeds):
        found, scheduler = [[] for _ in seeds], Scheduler()
        for seed, own in zip(seeds, found, strict=True):
            scheduler.add(partial(work, own, seed))
        scheduler.run()
        return [list(zip(*own, strict=True)) for own in found]

    found = draws(2, 1, 3)
    assert [at_a_time for _, at_a_time in found] == [(3, 2), (3,), (3, 2, 1)]
    assert found[2][0] == draws(3)[0][0]


def test_a_run_that_fails_leaves_and_an_error_comes_where_was_asked(monkeypatch):
    monkeypatch.setattr(together, "distil_batch", lambda requests: 1 / 0)
    caught, scheduler = [], Scheduler()

    def ask(run):
        with pytest.raises(ZeroDivisionError):
            run.ask(request(0))
        caught.append(run)

    for work in (lambda run: None, ask, ask):
        scheduler.add(work)
    scheduler.run()
    assert caught == scheduler.runs[1:]


@pytest.fixture
def config(tmp_path, sd_folder, mv_folder):
    return write_tiny_config(tmp_path / "real.yaml", sd_folder, mv_folder, data={"n_test_views": 2})


@pytest.mark.slow
def test_alone_a_run_is_an_ordinary_one_and_a_wrong_one_stops_no_other(config, tmp_path):
    arguments = ["--config", str(config), "--train"]
    ordinary = launcher.run([*arguments, "tag=ordinary"])
    scheduler = Scheduler()
    for name, more in (("wrong", ["data.batch_size=[2,3]"]), ("together", [])):
        (tmp_path / name).mkdir()
        log, more = tmp_path / name / "log.txt", [f"tag={name}", *more]
        scheduler.add(partial(together.carry_out, [*arguments, *more], log))
    scheduler.run()
    assert [(tmp_path / name / "exit").read_text() for name in ("wrong", "together")] == ["2", "0"]
    paths = ordinary["ckpt"], ordinary["ckpt"].replace("ordinary", "together")
    expected, found = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.slow
def test_real_runs_share_a_process_each_with_its_log_and_go_on_after_ctrl_c(config, tmp_path):
    path = write_sweep(tmp_path, methods={"jsd": {"config": str(config)}}, steps=30)
    arguments, runs = ["sweep", str(path), "--together", "2"], read_sweep(path).runs()
    first = subprocess.Popen([sys.executable, "-m", "jointdreamer.cli", *arguments])
    while not all(any(run.folder.glob("ckpts/last.ckpt")) for run in runs):
        assert first.poll() is None
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=20) == 130
    for run in runs:
        row = Record.of(run).row
        assert (row["state"], row["exit"], row["together"]) == ("interrupted", 130, 2)
        assert read_json(run.folder / "metrics.json")["state"] == "interrupted"

    assert main(arguments) == 0
    assert [Record.of(run).row["attempts"] for run in runs] == [2, 2]
    curves = [Run(run.folder).metrics()["train/grad_norm"] for run in runs]
    assert len(curves[0]) == 30 and curves[0] != curves[1]
    for run, other in (runs, runs[::-1]):
        assert Run(run.folder).newest("test.mp4").name == "it30-test.mp4"
        log = (run.folder / "sweep" / "log.txt").read_text()
        assert f"resume={run.folder}" in log and str(other.folder) not in log
