"""What a sweep's file means, and what is wrong with it."""

import json
from pathlib import Path

import pytest
from helpers.sweeps import PROMPTS, write_sweep
from omegaconf import OmegaConf

from jointdreamer.host.config_check import check_config
from jointdreamer.sweeps.plan import groups_of, read_sweep

HARD_PROMPTS = [
    'a "blue" cat, 5=x',
    "null",
    "a: b",
    "[cat]",
    "it's {odd}",
    "ein grüner Bär 🐻",
    "?!",
]


def given(run):
    """A run's overrides as a host reads them."""
    return OmegaConf.from_cli([item for item in run.arguments() if "=" in item])


def test_every_prompt_meets_every_method_and_seed(tmp_path):
    sweep = write_sweep(tmp_path, methods={"a": {}, "b": {}}, seeds=[3, 5])
    runs = read_sweep(sweep).runs()
    assert {(r.method.name, r.prompt, r.seed) for r in runs} == {
        (method, prompt, seed) for method in "ab" for prompt in PROMPTS for seed in (3, 5)
    }
    assert len({run.folder for run in runs}) == len(runs) == 8
    assert all(given(run).seed == run.seed for run in runs)


def test_prompts_may_be_a_json_file_and_the_order_of_prompts_does_not_move_folders(tmp_path):
    here = {run.prompt: run.folder for run in read_sweep(write_sweep(tmp_path)).runs()}
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS[::-1]))
    there = read_sweep(write_sweep(tmp_path, prompts=str(tmp_path / "prompts.json"))).runs()
    assert [run.prompt for run in there] == PROMPTS[::-1]
    assert here == {run.prompt: run.folder for run in there}


def test_any_prompt_arrives_as_it_was_written_in_a_folder_of_its_own(tmp_path):
    runs = read_sweep(write_sweep(tmp_path, prompts=HARD_PROMPTS)).runs()
    assert [given(run).system.prompt_processor.prompt for run in runs] == HARD_PROMPTS
    for run in runs:
        keys = given(run)
        assert f"{keys.exp_root_dir}/{keys.name}/{keys.tag}" == str(run.folder)
    assert len({run.folder for run in runs}) == len(HARD_PROMPTS)


def test_a_methods_overrides_come_after_the_common_ones_and_the_command_lines_last(tmp_path):
    path = write_sweep(
        tmp_path,
        steps=7,
        methods={"a": {"overrides": {"data": {"x": 2, "y": 2}}}, "b": {}},
        overrides={"data.x": 1, "data.z": "${seed}"},
    )
    a, b = read_sweep(path, overrides=["data.y=3"], prompts=["p"]).runs()
    assert OmegaConf.to_container(given(a).data, resolve=False) == {"x": 2, "y": 3, "z": "${seed}"}
    assert (given(b).data.x, given(b).trainer.max_steps, b.steps) == (1, 7, 7)


def test_a_configs_comments_do_not_make_it_another_config(tmp_path):
    path = write_sweep(tmp_path)
    config = tmp_path / "config.yaml"
    before = read_sweep(path).runs()[0].settings()
    config.write_text(config.read_text() + "# more\n")
    assert read_sweep(path).runs()[0].settings() == before
    config.write_text(config.read_text() + "seed: 1\n")
    assert read_sweep(path).runs()[0].settings() != before


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seed": [0]}, "'seed'.*Did you mean: 'seeds'"),
        ({"seeds": [0, 0]}, "seeds has 0 twice"),
        ({"seeds": [-1]}, "seeds=\\[-1\\] must be whole numbers"),
        ({"seeds": ["x"]}, "'x'.* to Integer full_key: seeds"),
        ({"prompts": []}, "prompts is required"),
        ({"prompts": ["a", " "]}, "prompts must be a list of texts"),
        ({"prompts": ["a", "a"]}, "has 'a' twice"),
        ({"prompts": "nowhere.json"}, "prompts nowhere.json.* does not exist"),
        ({"methods": {}}, "methods is required"),
        ({"methods": {"a/b": {}}}, "methods.a/b: a name becomes a folder"),
        ({"methods": {"a": {"config": "no.yaml"}}}, "methods.a.config no.yaml does not exist"),
        ({"methods": {"a": {"override": {}}}}, "'override'.*Did you mean.*full_key: methods.a"),
        ({"steps": 0}, "steps=0 must be a whole number from 1"),
        ({"jobs": "two"}, "'two'.*full_key: jobs"),
        ({"overrides": ["seed"]}, "override 'seed' is no key=value"),
        ({"overrides": ["a=[1"]}, "a=\\[1 do not make a config"),
        ({"overrides": {"seed": 4}}, "seed=4 cannot be overridden: prompts, methods"),
        (
            {"overrides": {"system": {"prompt_processor": {"prompt": "x"}}}},
            "prompt=x cannot be overridden",
        ),
    ],
)
def test_a_mistake_is_told_with_its_key(tmp_path, changes, message):
    path = write_sweep(tmp_path, **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_sweep(path).runs()


def test_the_shipped_sweep_holds_configs_that_the_host_accepts():
    runs = read_sweep(Path("configs/sweeps/demo8.yaml")).runs()
    assert len(runs) == 24 and {run.steps for run in runs} == {600}
    for run in runs[:4]:
        check_config(OmegaConf.merge(OmegaConf.load(run.method.config), given(run)))


def test_runs_of_one_method_share_processes_in_order(tmp_path):
    runs = read_sweep(write_sweep(tmp_path, methods={"a": {}, "b": {}}, seeds=[0, 1])).runs()
    found = [[(r.method.name, r.seed, r.prompt) for r in group] for group in groups_of(runs, 3, 1)]
    assert found == [[(name, seed, p) for p in PROMPTS] for seed in (0, 1) for name in "ab"]
    assert [len(group) for group in groups_of(runs[:-1], 4, jobs=1)] == [4, 3]


@pytest.mark.parametrize(
    "size, jobs, expected",
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
