"""The extension as a module: two names for one thing, and which host it accepts."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "custom" / "threestudio-jointdreamer"
PRELUDE = f"""
import importlib, importlib.util, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "jointdreamer" / "standalone")!r}]
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


def test_under_threestudios_name_it_is_the_same_package_with_all_its_files():
    done = python("""
from pathlib import Path
import threestudio
load("threestudio-jointdreamer")     # as threestudio loads custom/
from threestudio_jointdreamer.systems.jointdreamer import JointDreamer
assert threestudio.find("jointdreamer-system") is JointDreamer
package = Path(sys.modules["threestudio_jointdreamer"].__file__).parent
names = {}
for name, module in sys.modules.items():
    file = Path(getattr(module, "__file__", None) or "nowhere")
    if package in file.parents:
        names.setdefault(file, []).append(name)
missing = set(package.rglob("*.py")) - set(names)
assert not missing, missing
two = {file: name for file, name in names.items() if len(name) > 1}
assert list(two) == [package / "__init__.py"], two    # that threestudio must call by its folder's
assert not [name for name in sys.modules if name.split(".")[0] == "jointdreamer"]
try:
    importlib.import_module("threestudio-jointdreamer.guidance.jsd")
except ImportError:
    pass
else:
    raise AssertionError("a file has two names")
""")
    assert done.returncode == 0, done.stderr


def test_a_second_copy_is_said_and_not_used(tmp_path):
    copy = tmp_path / "threestudio-jointdreamer"
    copy.mkdir()
    (copy / "__init__.py").write_text((FOLDER / "__init__.py").read_text())
    done = python(f"""
load("threestudio-jointdreamer")
first = sys.modules["threestudio_jointdreamer"]
load("threestudio-jointdreamer", {str(copy)!r})
assert sys.modules["threestudio_jointdreamer"] is first
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
