"""The extension as a module: two names for one thing, and which host it accepts."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "custom" / "threestudio-jointdreamer"
PRELUDE = f"""
import importlib, importlib.util, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "standalone")!r}]
def load(name, folder={str(FOLDER)!r}):
    spec = importlib.util.spec_from_file_location(
        name, folder + "/__init__.py", submodule_search_locations=[folder])
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return sys.modules[name]
"""


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, timeout=120
    )


def test_other_names_and_copies_become_the_extension_that_is_loaded(tmp_path):
    copy = tmp_path / "threestudio_jointdreamer"
    copy.mkdir()
    (copy / "__init__.py").write_text((FOLDER / "__init__.py").read_text())
    done = python(f"""
first = load("threestudio-jointdreamer")     # as threestudio loads custom/
assert load("threestudio_jointdreamer") is first    # as pip's package is imported
from threestudio_jointdreamer.systems.jointdreamer import JointDreamer
import threestudio
assert threestudio.find("jointdreamer-system") is JointDreamer
both = [sys.modules[f"threestudio{{sign}}jointdreamer.guidance"] for sign in "-_"]
assert both[0] is both[1]
import threestudio_jointdreamer.evaluation.runs
assert load("another_name", {str(copy)!r}) is first
""")
    assert done.returncode == 0, done.stderr
    assert f"{copy}/__init__.py is not used" in done.stderr


@pytest.mark.parametrize("version", ["0.2.2", "0.3.0", None])
def test_a_host_of_another_version_is_refused(version):
    done = python(f"""
import types
host = types.ModuleType("threestudio")
host.__file__ = "somewhere/threestudio/__init__.py"
if {version!r}: host.__version__ = {version!r}
sys.modules["threestudio"] = host
load("threestudio_jointdreamer")
""")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: threestudio") and ">=0.2.3 and <0.3" in last
