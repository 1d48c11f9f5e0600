"""A checkout's link to our encodings, and a tiny-cuda-nn behind it on the path."""

import subprocess
import sys

import pytest

from jointdreamer.host.selection import STANDALONE

OURS = STANDALONE / "tinycudann"
RANK_ZERO = "def rank_zero_info(text):\n    print('log:', text)\n"
SHOW = "import tinycudann as t; print(t.__file__); print(t.Encoding.__module__)"
REAL = {
    "__init__.py": "from tinycudann.modules import Encoding",
    "modules.py": "class Encoding: pass",
}


@pytest.fixture
def checkout(tmp_path):
    """A folder with the link; it is the first on the path, as for a script in it."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "tinycudann").symlink_to(OURS)
    return folder


@pytest.fixture
def site(tmp_path):
    """Stands in for what is installed; Lightning's real one takes seconds."""
    folder = tmp_path / "site"
    files = {f"pytorch_lightning/{name}": "" for name in ("__init__.py", "utilities/__init__.py")}
    write(folder, files | {"pytorch_lightning/utilities/rank_zero.py": RANK_ZERO})
    return folder


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def ask(checkout, *path, code=SHOW):
    (checkout / "launch.py").write_text(
        f"import sys\nsys.path[1:1] = {list(map(str, path))}\n{code}"
    )
    run = subprocess.run(
        [sys.executable, str(checkout / "launch.py")], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_without_another_ours_serves_and_says_so_in_one_line(checkout, site):
    assert ask(checkout, site) == [
        f"log: tinycudann: in PyTorch, from {OURS}",
        str(checkout / "tinycudann" / "__init__.py"),
        "tinycudann.encoding",
    ]


def test_another_that_is_installed_is_not_hidden(checkout, site):
    write(site / "tinycudann", REAL)
    code = (
        f"{SHOW}\nimport tinycudann.modules as m; print(m.__file__, t is sys.modules[t.__name__])"
    )
    real = site / "tinycudann"
    assert ask(checkout, site, code=code) == [
        f"log: tinycudann: {real} (JOINTDREAMER_TINYCUDANN=0 takes ours)",
        str(real / "__init__.py"),
        "tinycudann.modules",
        f"{real / 'modules.py'} True",
    ]


def test_another_that_does_not_work_here_leaves_nothing_behind_and_is_told(checkout, site):
    broken = {"modules.py": "class Encoding: pass\nraise OSError('no\\nGPU')"}
    write(site / "tinycudann", REAL | broken)
    code = f"{SHOW}\nprint([name for name in sys.modules if name == 'tinycudann.modules'])"
    lines = ask(checkout, site, code=code)
    why = f"(the one at {site / 'tinycudann'} does not work here: no GPU)"
    assert lines[0] == f"log: tinycudann: in PyTorch, from {OURS} {why}"
    assert lines[2:] == ["tinycudann.encoding", "[]"]


def test_copies_of_ours_and_bare_folders_are_passed_over(checkout, site, tmp_path):
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "tinycudann").symlink_to(OURS)
    (tmp_path / "bare" / "tinycudann").mkdir(parents=True)
    write(site / "tinycudann", REAL)
    lines = ask(checkout, tmp_path / "copy", tmp_path / "bare", site)
    assert lines[-1] == "tinycudann.modules"
