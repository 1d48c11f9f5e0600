"""Which threestudio and which tinycudann run, in fresh interpreters with made-up packages."""

import os
import subprocess
import sys
import textwrap

import pytest

from jointdreamer.host.selection import STANDALONE

# stands in for the real one, which takes seconds to import
RANK_ZERO = """
rank_zero_info = rank_zero_warn = lambda text: print("log:", text)
"""


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "site"
    package(folder, "pytorch_lightning.utilities.rank_zero", RANK_ZERO)
    return folder


def package(root, name, text="__version__ = '0.2.3'"):
    """Makes an importable module, with packages around it."""
    *parents, last = name.split(".")
    folder = root
    for parent in parents:
        folder = folder / parent
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
    (folder / last).mkdir(parents=True, exist_ok=True)
    (folder / last / "__init__.py").write_text(text)
    return root


def ask(site, code, **environment):
    keep = {k: v for k, v in os.environ.items() if k not in ("THREESTUDIO_ROOT", "PYTHONPATH")}
    start = f"""
import sys; sys.path[:0] = [{str(site)!r}, {str(STANDALONE.parents[1])!r}]
from pathlib import Path
from jointdreamer.host import selection
from jointdreamer.host.selection import *
from jointdreamer.cli import main
"""
    run = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=keep | {key: str(value) for key, value in environment.items()},
        cwd=site,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


FOLDER = "print(ensure_host())"


def test_without_any_threestudio_the_standalone_host_is_used_and_said_so_once(site):
    (site / "threestudio").mkdir()  # an empty folder is no package
    code = f"{FOLDER}\nbefore = list(sys.path)\n{FOLDER}\nprint(before == sys.path)"
    lines = ask(site, code)
    said = "log: threestudio: the standalone host; tinycudann: in PyTorch"
    assert lines == [said, *[str(STANDALONE / "threestudio")] * 2, "True"]


def test_a_checkout_named_by_the_environment_comes_first(site, tmp_path):
    package(site, "threestudio")
    checkout = package(tmp_path / "checkout", "threestudio")
    lines = ask(site, FOLDER, THREESTUDIO_ROOT=checkout)
    assert lines == [
        f"log: threestudio: {checkout}; tinycudann: in PyTorch",
        str(checkout / "threestudio"),
    ]


def test_an_installed_threestudio_is_used(site):
    package(site, "threestudio")
    code = f"{FOLDER}\nimport threestudio, importlib.util\nprint(threestudio.__file__)"
    lines = ask(site, code + "\nprint(importlib.util.find_spec('tinycudann').origin)")
    assert lines[1:] == [
        str(site / "threestudio"),
        str(site / "threestudio" / "__init__.py"),
        str(STANDALONE / "tinycudann" / "__init__.py"),
    ]


def test_an_installed_tinycudann_that_works_is_used(site):
    package(site, "tinycudann", "")
    lines = ask(site, f"{FOLDER}\nimport tinycudann\nprint(tinycudann.__file__)")
    said = f"tinycudann: {site / 'tinycudann'} (JOINTDREAMER_TINYCUDANN=0 takes ours)"
    assert lines[0].endswith(said)
    assert lines[-1] == str(site / "tinycudann" / "__init__.py")


def test_an_installed_tinycudann_that_does_not_work_here_is_replaced(site):
    package(site, "threestudio")
    package(site, "tinycudann", "raise OSError('no such GPU')")
    lines = ask(site, f"{FOLDER}\nimport tinycudann\nprint(tinycudann.Encoding.__module__)")
    why = f"(the one at {site / 'tinycudann'} does not work here: no such GPU)"
    assert lines[0].endswith(f"tinycudann: in PyTorch {why}")
    assert lines[1:] == [str(site / "threestudio"), "tinycudann.encoding"]


def test_a_checkout_with_our_encodings_linked_in_is_told_once(site, tmp_path):
    checkout = package(tmp_path / "checkout", "threestudio")
    (checkout / "tinycudann").symlink_to(STANDALONE / "tinycudann")
    code = f"{FOLDER}\n{FOLDER}\nimport tinycudann\nprint(tinycudann.__file__)"
    lines = ask(site, code, THREESTUDIO_ROOT=checkout)
    assert lines == [
        f"log: threestudio: {checkout}; tinycudann: in PyTorch",
        *[str(checkout / "threestudio")] * 2,
        str(STANDALONE / "tinycudann" / "__init__.py"),
    ]


def test_a_command_that_mends_runs_beside_a_broken_threestudio(site, tmp_path):
    checkout = package(tmp_path / "checkout", "threestudio", "import nvdiffrast_is_missing")
    stand_in = package(tmp_path / "stand-in", "threestudio")  # imports faster than ours
    code = f"""
        import threestudio_jointdreamer, jointdreamer.doctor
        jointdreamer.doctor.add_arguments = lambda parser: parser.set_defaults(
            run=lambda args: print(sys.modules["threestudio"].__file__)
        )
        selection.STANDALONE, selection.load_extension = Path({str(stand_in)!r}), lambda: None
        print(main(["doctor"]))
    """
    package(site, "threestudio_jointdreamer", "")
    lines = ask(site, code, THREESTUDIO_ROOT=checkout)
    assert "cannot be imported (No module named 'nvdiffrast_is_missing')" in lines[1]
    assert lines[2:] == [str(stand_in / "threestudio" / "__init__.py"), "0"]


def test_a_checkout_that_cannot_be_imported_is_told(site, tmp_path):
    checkout = package(tmp_path / "checkout", "threestudio", "import nvdiffrast_is_missing")
    code = "ensure_host()\ntry: load_extension()\nexcept ValueError as error: print(error)"
    line = ask(site, code, THREESTUDIO_ROOT=checkout)[-1]
    assert "cannot be imported (No module named 'nvdiffrast_is_missing')" in line
    assert "unset THREESTUDIO_ROOT" in line


@pytest.mark.parametrize("which", ["clone", "installed"])
def test_a_clone_runs_its_own_extension_and_an_installation_the_installed_one(
    site, tmp_path, which
):
    package(site, "threestudio")
    package(site, "threestudio_jointdreamer", "print('installed')")
    custom = tmp_path / "custom"
    if which == "clone":
        package(custom, "threestudio-jointdreamer", "print('clone')")
    code = f"""
        selection.EXTENSIONS_FOLDER = Path({str(custom)!r})
        ensure_host()
        a = load_extension(); b = load_extension(); print(a is b, a.__name__)
    """
    assert ask(site, code)[1:] == [which, "True threestudio_jointdreamer"]


def test_other_extensions_are_loaded_and_a_broken_one_stops_nothing(site, tmp_path):
    custom = tmp_path / "custom"
    package(custom, "good-extension", "print('good')\nfrom . import part")
    (custom / "good-extension" / "part.py").write_text("print('part')")
    package(custom, "broken", "import nowhere_at_all")
    package(custom, "off_disabled", "print('off')")
    package(custom, "threestudio-jointdreamer", "print('not this one')")
    (custom / "single.py").write_text("print('single')")
    (custom / "README.md").touch()
    lines = ask(site, f"print(load_other_extensions(Path({str(custom)!r})))")
    assert lines[0].startswith(
        "log: custom/broken cannot be imported, so is missing: ModuleNotFound"
    )
    assert lines[1:] == ["good", "part", "single", "['good-extension', 'single']"]


def test_a_wrong_checkout_is_told_in_one_line(site, tmp_path):
    code = "import contextlib\nwith contextlib.redirect_stderr(sys.stdout): print(main(['demo']))"
    line, exit_code = ask(site, code, THREESTUDIO_ROOT=tmp_path)
    told = f"error: THREESTUDIO_ROOT={tmp_path} holds no threestudio/__init__.py: set it to"
    assert line.startswith(told) and exit_code == "2"
