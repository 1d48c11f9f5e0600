"""What `pip install .` brings: both packages with configs and tiny weights, usable anywhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("setuptools", reason="builds the package")
ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {  # in the clone, and in the package
    "custom/threestudio-jointdreamer": "threestudio_jointdreamer",
    "jointdreamer": "jointdreamer",
    "configs": "jointdreamer/configs",
    "load/tiny": "threestudio_jointdreamer/load/tiny",
    "load/prompts": "threestudio_jointdreamer/load/prompts",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with what an installation puts into site-packages, entry points included."""
    folder = tmp_path_factory.mktemp("package")
    build = ["egg_info", "--egg-base", folder, "build_py", "--build-lib", folder]
    command = [sys.executable, "-c", "import setuptools; setuptools.setup()", *build]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
        and not {"__pycache__", "threestudio_jointdreamer.egg-info"} & {*path.parts}
    }


def test_every_file_of_the_rooms_comes_along_and_nothing_else(built):
    wanted = {f"{there}/{name}" for here, there in FOLDERS.items() for name in files(ROOT / here)}
    got = files(built)
    assert not wanted - got, "add these to pyproject.toml, [tool.setuptools]"
    assert not got - wanted


def test_from_an_empty_folder_the_extension_loads_and_the_demo_runs(built, tmp_path):
    small = [
        "trainer.max_steps=2",
        "trainer.log_every_n_steps=1",
        "data.width=16",
        "data.height=16",
        "data.n_test_views=2",
    ]
    small += ["data.eval_width=16", "data.eval_height=16", "system.renderer.num_samples_per_ray=16"]
    script = f"""
import pathlib, sys
import threestudio_jointdreamer     # by itself: the entry point brings a host
from jointdreamer.cli import main
for name in ("threestudio", "threestudio_jointdreamer", "jointdreamer"):
    assert pathlib.Path({str(built)!r}) in pathlib.Path(sys.modules[name].__file__).parents, name
sys.exit(main(["demo", *{small}]))
"""
    environment = os.environ | {"PYTHONPATH": str(built)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert list(tmp_path.glob("outputs/demo/*/asset.glb"))
