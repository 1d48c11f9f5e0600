"""Fixtures that run the real threestudio; everything here is skipped where it cannot run."""

import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from filelock import FileLock
from helpers.real_threestudio import (
    CHECKOUT,
    ROOT,
    Launched,
    find_checkout,
    make_view,
    run_launch,
)

from jointdreamer.testing.random_priors import build_full_size

HERE = Path(__file__).resolve().parent
MEMORY = 40  # GiB of the GPU's, for one run at full size
T = TypeVar("T")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    found = find_checkout()
    needs_gpu = None if torch.cuda.is_available() else "threestudio needs a CUDA GPU."
    reason = found if isinstance(found, str) else needs_gpu
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(590))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The checkout of threestudio that THREESTUDIO_ROOT names."""
    found = find_checkout()
    assert isinstance(found, Path)
    return found


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[], T]], T]:
    """`once(name, make)`: what `make()` returns, made by one of pytest-xdist's workers for all.

    Where it fails for one, it fails for all. Without workers it is a plain call.
    """

    def once(name: str, make: Callable[[], T]) -> T:
        if "PYTEST_XDIST_WORKER" not in os.environ:
            return make()
        shared = tmp_path_factory.getbasetemp().parent  # the workers' own folders lie in it
        file = shared / f"{name}.pickle"
        with FileLock(shared / f"{name}.lock"):
            if not file.is_file():
                made, problem = None, None
                try:
                    made = make()
                except (Exception, pytest.fail.Exception) as error:
                    problem = f"{type(error).__name__}: {error}"
                file.write_bytes(pickle.dumps((made, problem)))
            made, problem = pickle.loads(file.read_bytes())
        if problem is not None:
            pytest.fail(problem, pytrace=False)
        return made

    return once


@pytest.fixture(scope="session")
def full_size_priors(once, tmp_path_factory) -> Path:
    """stable-diffusion/ and mvdream/ of the published sizes, with random weights."""
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < MEMORY:
        pytest.skip(f"needs {MEMORY} GiB of GPU memory, {free:.0f} are free.")

    def build() -> Path:
        folder = tmp_path_factory.mktemp("priors")
        build_full_size(folder / "stable-diffusion", 0)
        build_full_size(folder / "mvdream", 1, multiview=True)
        torch.cuda.empty_cache()
        return folder

    return once("full-size-priors", build)


@pytest.fixture(scope="session")
def views(checkout: Path, tmp_path_factory) -> Callable[..., Path]:
    """`views(*extensions)`: a checkout of links with our extension and these; made once."""
    made: dict[tuple[str, ...], Path] = {}

    def view(*extensions: str) -> Path:
        key = tuple(sorted(extensions))
        if key not in made:
            target = tmp_path_factory.mktemp("view") / "threestudio"
            made[key] = make_view(checkout, target, key)
        return made[key]

    return view


@pytest.fixture
def launch(views, tmp_path) -> Callable[..., Launched]:
    """`launch(args, cwd=None, extensions=(), env=None, fails=False)`: threestudio's launch.py.

    It runs in a view of the checkout, so that relative paths are the checkout's; runs go to
    tmp_path/outputs. `extensions` are "mvdream" and "3dgs"; without their checkout it skips.
    """

    def launch(args, cwd=None, extensions=(), env=None, fails=False) -> Launched:
        folder = Path(cwd) if cwd is not None else views(*extensions)
        return run_launch(args, folder, tmp_path / "outputs", env=env, fails=fails)

    return launch


@pytest.fixture
def launch_ours(checkout: Path, tmp_path) -> Callable[..., Launched]:
    """`launch_ours(args, env=None, fails=False)`: our launch.py with THREESTUDIO_ROOT."""
    return partial(_launch_ours, str(checkout), tmp_path / "outputs-ours")


@pytest.fixture
def launch_standalone(tmp_path) -> Callable[..., Launched]:
    """`launch_standalone(args, env=None, fails=False)`: our launch.py on the standalone host."""
    return partial(_launch_ours, None, tmp_path / "outputs-standalone")


def _launch_ours(checkout: str | None, outputs: Path, args, env=None, fails=False) -> Launched:
    return run_launch(args, ROOT, outputs, env={CHECKOUT: checkout} | (env or {}), fails=fails)
