"""configs/authors*.yaml, with random priors of the published sizes, log the authors' numbers."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.authors_recipe import MESH, REFINEMENT, START_NEGATIVE, STEPS, first_stage
from helpers.real_threestudio import PROMPT, Launched
from helpers.stepping import put_at_step

HOSTS = ("launch", "launch_standalone")
FIRST = 2  # steps, of the run that others go on from
JUMPS = {600: 602, 1500: 1501, 2999: 3002}  # from a checkpoint set to the first to the second
SHORT = [
    f"system.prompt_processor.prompt={PROMPT}",
    "system.guidance_eval_step=0",
    "data.n_test_views=2",
    "data.eval_width=64",
    "data.eval_height=64",
    "trainer.limit_val_batches=0",
    "trainer.enable_progress_bar=true",  # threestudio's launcher needs it
    "trainer.log_every_n_steps=1",
]


@pytest.fixture
def arguments(full_size_priors: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """`arguments(stage, steps, *more)`: the command line; sizes are the config's own."""

    def arguments(stage: str, steps: int, *more: str) -> list[str]:
        energy = f"system.guidance.energy.pretrained_model_name_or_path={full_size_priors}/mvdream"
        return [
            *("--config", f"configs/authors{stage}.yaml", "--train", *SHORT),
            f"system.guidance.pretrained_model_name_or_path={full_size_priors}/stable-diffusion",
            *[energy] * (stage != "-refine"),
            f"system.prompt_processor.cache_dir={tmp_path / 'cache'}",
            f"trainer.max_steps={steps}",
            f"checkpoint.every_n_train_steps={steps}",
            *more,
        ]

    return arguments


def assert_logs(run: Launched, steps: range, expected: Callable[[int], dict[str, float]]) -> None:
    log = run.numbers
    for step in steps:
        found = {name: log.get(name, {}).get(step) for name in expected(step)}
        assert found == pytest.approx(expected(step)), step


@pytest.mark.parametrize("host", HOSTS)
def test_the_first_stage_changes_where_the_authors_does(host, arguments, request, tmp_path):
    launch = request.getfixturevalue(host)
    run = launch(arguments("", FIRST))
    assert_logs(run, range(FIRST), first_stage)
    first = run.ckpt
    for step, end in JUMPS.items():
        checkpoint = put_at_step(first, step, tmp_path / f"{step}.ckpt")
        run = launch(arguments("", end, f"resume={checkpoint}", f"name=from-{step}"))
        assert_logs(run, range(step, end), first_stage)
    assert f"Step {START_NEGATIVE}: the negative prompt" in run.log
    seen = {0, *(step for start, end in JUMPS.items() for step in range(start, end))}
    assert set(STEPS) <= seen


@pytest.mark.parametrize("host", HOSTS)
def test_refinement_has_the_authors_numbers(host, arguments, request):
    launch = request.getfixturevalue(host)
    first = launch(arguments("", FIRST))
    run = launch([*arguments("-refine", 3), f"system.weights={first.ckpt}", "name=refinement"])
    assert_logs(run, range(3), lambda step: REFINEMENT)


def test_the_mesh_stage_has_the_authors_numbers(arguments, launch):
    first = launch(arguments("", FIRST))
    more = [  # after two steps the volume is still the soft ball it starts as
        f"system.geometry_convert_from={first.ckpt}",
        "system.geometry.isosurface_resolution=64",
        "system.geometry_convert_override.isosurface_threshold=2.0",
        "name=mesh",
    ]
    run = launch(arguments("-dmtet", 3, *more))
    assert_logs(run, range(3), lambda step: MESH)
