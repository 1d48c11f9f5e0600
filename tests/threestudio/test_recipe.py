"""configs/authors*.yaml, with the tiny world's priors, log the authors' numbers in both hosts."""

import pytest
from helpers.authors_recipe import MESH, REFINEMENT, START_NEGATIVE, STEPS, first_stage
from helpers.real_threestudio import Launched, tiny_overrides

SMALL = [
    "data.width=16",
    "data.height=16",
    "system.renderer.num_samples_per_ray=16",
    "trainer.limit_val_batches=0",
    "trainer.enable_progress_bar=true",  # threestudio's launcher needs it
    "system.guidance_eval_step=0",
    "data.n_test_views=2",
]
HOSTS = ("launch", "launch_standalone")


def arguments(stage: str, steps: int, *more: str) -> list[str]:
    """The command line; batches and their milestone are the config's own."""
    own = ("data.batch_size", "data.resolution_milestones", "trainer.val_check_interval")
    overrides = tiny_overrides(steps, energy=stage != "-refine", volume=stage != "-dmtet")
    overrides = [item for item in overrides if not item.startswith(own)]
    small = [item for item in SMALL if stage != "-dmtet" or "renderer" not in item]
    return ["--config", f"configs/authors{stage}.yaml", "--train", *overrides, *small, *more]


def assert_logs(run: Launched, step: int, expected: dict[str, float]) -> None:
    log = run.numbers
    found = {name: log.get(name, {}).get(step) for name in expected}
    assert found == pytest.approx(expected), step


@pytest.mark.parametrize("host", HOSTS)
def test_the_first_stage_changes_where_the_authors_does(host, request):
    run = request.getfixturevalue(host)(arguments("", STEPS[-1] + 1))
    for step in STEPS:
        assert_logs(run, step, first_stage(step))
    assert f"Step {START_NEGATIVE}: the negative prompt" in run.log


@pytest.mark.parametrize("host", HOSTS)
def test_refinement_has_the_authors_numbers(host, request):
    launch = request.getfixturevalue(host)
    first = launch(arguments("", 4))
    run = launch([*arguments("-refine", 4), f"system.weights={first.ckpt}", "name=refinement"])
    for step in range(4):
        assert_logs(run, step, REFINEMENT)


def test_the_mesh_stage_has_the_authors_numbers(launch):
    first = launch(arguments("", 60, "data.width=64", "data.height=64"))
    volume = [item for item in tiny_overrides(4) if item.startswith("system.geometry.pos_encoding")]
    more = [
        f"system.geometry_convert_from={first.ckpt}",
        "system.geometry.isosurface_resolution=32",
        "system.geometry_convert_override.isosurface_threshold=2.0",
        "name=mesh",
    ]
    run = launch(arguments("-dmtet", 4, *volume, *more))
    for step in range(4):
        assert_logs(run, step, MESH)
