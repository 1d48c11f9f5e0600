"""Runs that share a process are what they would be by themselves, but for the guidance's noise."""

import csv
from types import SimpleNamespace

import pytest
import threestudio
import torch
from helpers.prior_fixtures import mv_folder, sd_folder  # noqa: F401
from helpers.sweeps import PROMPTS, sessions, stand_in_run, write_sweep
from helpers.tiny_run import STEPS, write_tiny_config

from jointdreamer.cli import main
from jointdreamer.runs import Run
from jointdreamer.sweeps.company import JointPrompts, Request, Seat, Table
from jointdreamer.sweeps.machinery import groups_of
from jointdreamer.sweeps.plan import read_sweep
from jointdreamer.sweeps.turns import Turns
from jointdreamer.testing.cameras import camera_ring
from jointdreamer.testing.prompts import RandomPrompts

V = 2


@pytest.fixture
def guidance(sd_folder, mv_folder):  # noqa: F811
    return threestudio.find("jsd-guidance")(
        {
            "pretrained_model_name_or_path": str(sd_folder),
            "n_view": V,
            "guidance_scale": [0, 3.0, 6.0, 10],
            "view_dependent_prompting": True,
            "energy_weight": 0.5,
            "energy_type": "jsd-multiview-energy",
            "energy": {"pretrained_model_name_or_path": str(mv_folder), "noise": "shared"},
        }
    )


def render(seed):
    return torch.rand(V, 16, 16, 3, generator=torch.Generator().manual_seed(seed))


def together(guidance, seeds, step=4):
    """Loss, gradient and numbers of each object, out of one call."""
    found = {}

    def work_of(seed):
        def work(member):
            torch.manual_seed(seed)
            rgb = render(seed).requires_grad_()
            seat = Seat(member, guidance)
            seat.do_update_step(0, step)
            out = seat(rgb, RandomPrompts(seed), **camera_ring(1, V), height=16)
            (2 * out["loss_sds"]).backward()  # as a scaled loss would
            numbers = {name: float(torch.as_tensor(value)) for name, value in out.items()}
            found[seed] = numbers, rgb.grad / 2

        return work

    turns = Turns(Table().answer)
    for seed in seeds:
        turns.add(work_of(seed))
    turns.run()
    return found


def test_alone_at_the_table_a_run_gets_what_its_guidance_gives(guidance):
    out, gradient = together(guidance, [5])[5]
    guidance.do_update_step(0, 4)
    torch.manual_seed(5)
    rgb = render(5).requires_grad_()
    expected = guidance(rgb, RandomPrompts(5), **camera_ring(1, V))
    expected["loss_sds"].backward()
    assert out.keys() == expected.keys()
    for name, value in expected.items():
        assert out[name] == pytest.approx(float(torch.as_tensor(value).detach()), rel=1e-5), name
    torch.testing.assert_close(gradient, rgb.grad)


def test_each_run_gets_its_own_objects_share_of_one_call(guidance):
    found = together(guidance, [5, 6, 7])
    guidance.do_update_step(0, 4)
    torch.manual_seed(5)
    rgb = torch.cat([render(seed) for seed in (5, 6, 7)]).requires_grad_()
    prompts = JointPrompts([RandomPrompts(seed) for seed in (5, 6, 7)])
    cameras = {name: torch.cat([values] * 3) for name, values in camera_ring(1, V).items()}
    joint = guidance(rgb, prompts, **cameras)
    joint["loss_sds"].backward()
    for number, seed in enumerate((5, 6, 7)):
        out, gradient = found[seed]
        expected = 3 * rgb.grad[number * V : (number + 1) * V]
        assert (gradient - expected).norm() < 1e-4 * expected.norm()
        assert out["guidance_scale"] == pytest.approx(4.2)
    outs = [out for out, _ in found.values()]
    for name in ("loss_sds", "energy"):
        mean = sum(out[name] for out in outs) / 3
        assert mean == pytest.approx(float(joint[name].detach()), rel=1e-4)
    norm = sum(out["grad_norm"] ** 2 for out in outs) ** 0.5
    assert norm == pytest.approx(float(joint["grad_norm"]), rel=1e-4)
    assert len({out["grad_norm"] for out in outs}) == 3


@pytest.mark.parametrize("perp_neg", [False, True])
def test_joint_prompts_are_those_of_every_run_block_by_block(perp_neg):
    prompts = [RandomPrompts(seed, perp_neg=perp_neg) for seed in (0, 1)]
    cameras = [camera_ring(1, V)[name] for name in ("elevation", "azimuth", "camera_distances")]
    cameras[1] = torch.tensor([10.0, 100.0])
    both = JointPrompts(prompts)
    assert both.text_embeddings.shape[0] == 2 and both.use_perp_neg == perp_neg
    twice = [torch.cat([values] * 2) for values in cameras]
    if not perp_neg:
        first, second = (p.get_text_embeddings(*cameras, True).chunk(2) for p in prompts)
        text, uncond = both.get_text_embeddings(*twice, True).chunk(2)
        assert torch.equal(text, torch.cat([first[0], second[0]]))
        assert torch.equal(uncond, torch.cat([first[1], second[1]]))
        return
    embeddings, weights = both.get_text_embeddings_perp_neg(*twice, True)
    alone = [p.get_text_embeddings_perp_neg(*cameras, True) for p in prompts]
    assert torch.equal(weights, torch.cat([weight for _, weight in alone]))
    for start, size in ((0, V), (V, V), (2 * V, 2 * V)):
        block = torch.cat([found[start : start + size] for found, _ in alone])
        assert torch.equal(embeddings[2 * start : 2 * (start + size)], block)


def test_runs_that_are_behind_come_first():
    def member(step, size=8):
        request = Request(0, step, None, torch.zeros(V, size, size, 3), None, {}, False)
        state = SimpleNamespace(restore=lambda: None, save=lambda: None)
        return SimpleNamespace(request=request, randomness=state, reply=None)

    table, members = Table(), [member(8), member(6), member(6), member(6, size=12)]
    table._replies = lambda requests: [len(requests)] * len(requests)
    assert table.answer(members) == members[1:3] and members[1].reply == 2
    table._replies = lambda requests: 1 / 0
    assert table.answer(members[:1]) == members[:1]
    assert isinstance(members[0].reply, ZeroDivisionError)


def test_a_system_without_jsd_guidance_is_told_what_to_do():
    with pytest.raises(ValueError, match="leave --together out"):
        Seat(None, None)


def test_runs_of_one_method_share_processes_in_order(tmp_path):
    runs = read_sweep(write_sweep(tmp_path, methods={"a": {}, "b": {}}, seeds=[0, 1])).runs()
    groups = [
        [(r.method.name, r.seed, r.prompt) for r in group] for group in groups_of(runs, 3, jobs=1)
    ]
    assert groups == [[(name, seed, p) for p in PROMPTS] for seed in (0, 1) for name in "ab"]
    assert [len(group) for group in groups_of(runs[:-1], 4, jobs=1)] == [4, 3]


@pytest.mark.parametrize(
    ("size", "jobs", "expected"),
    [
        (16, 16, [12] * 44),  # 33 groups of 16 would leave one of them to a third round
        (16, 33, [16] * 33),
        (16, 4, [16] * 33),  # in nine rounds, as few as can be
        (16, 1000, [1] * 528),
        (1, 16, [1] * 528),
    ],
)
def test_groups_fill_the_rounds_that_they_need(tmp_path, size, jobs, expected):
    methods = {f"m{n}": {} for n in range(11)}
    prompts = [f"prompt {n}" for n in range(16)]
    plan = write_sweep(tmp_path, methods=methods, seeds=[0, 1, 2], prompts=prompts)
    groups = groups_of(read_sweep(plan).runs(), size, jobs)
    assert [len(group) for group in groups] == expected
    assert all(len({run.method.name for run in group}) == 1 for group in groups)


def test_each_run_of_a_group_has_a_record_and_a_log_of_its_own(tmp_path, capsys):
    sweep = write_sweep(tmp_path, overrides={"data.fail": "no"}, seeds=[0, 1])
    assert main(["sweep", str(sweep), "--together", "3", "--jobs", "2"], run=stand_in_run()) == 1
    assert capsys.readouterr().out.count("error: no") >= 4
    with open(tmp_path / "out" / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["state"], row["exit"], row["log_end"]) for row in rows} == {
        ("failed", "2", "error: no")
    }
    assert [row["together"] for row in rows] == ["2"] * 4
    found = sessions(tmp_path)
    assert len({session["pid"] for session in found}) == 2
    assert all(session["prompt"] in str(session["argv"]) for session in found)
    assert main(["sweep", str(sweep), "--together", "0"], run=stand_in_run()) == 2


@pytest.mark.slow
def test_two_real_runs_share_a_process(tmp_path, sd_folder, mv_folder):  # noqa: F811
    from jointdreamer.host.launcher import run

    config = write_tiny_config(
        tmp_path / "real.yaml", sd_folder, mv_folder, data={"n_test_views": 2}
    )
    path = write_sweep(tmp_path, methods={"jsd": {"config": str(config)}}, steps=STEPS)
    command = ["sweep", str(path), "--together", "2"]
    assert main(command, run=run) == 0
    with open(tmp_path / "out" / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["state"], row["together"]) for row in rows} == {("done", "2")}
    runs = [Run(tmp_path / "out" / row["folder"]) for row in rows]
    curves = [found.metrics()["train/grad_norm"] for found in runs]
    assert len(curves[0]) == STEPS and curves[0] != curves[1]
    assert all(found.newest("test.mp4").name == f"it{STEPS}-test.mp4" for found in runs)
    logs = [(found.folder / "sweep" / "log.txt").read_text() for found in runs]
    assert all("it" in log and str(runs[1 - n].folder) not in log for n, log in enumerate(logs))
