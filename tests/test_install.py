"""`jointdreamer install`: links in a checkout of threestudio, and their removal without a trace."""

import os
import subprocess
from pathlib import Path

import pytest

from jointdreamer import install
from jointdreamer.cli import main

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {  # by the link's path; configs/notes has no config in it
    "custom/threestudio-jointdreamer": "custom/threestudio-jointdreamer",
    "configs/jointdreamer.yaml": "configs/jointdreamer.yaml",
    "configs/tiny": "configs/tiny",
    "load/tiny": "load/tiny",
    "load/prompts": "load/prompts",
    "tinycudann": "jointdreamer/standalone/tinycudann",
}
LINKS = set(SOURCES)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A small stand-in for this repository, without tiny-cuda-nn on the machine."""
    folder = tmp_path / "clone"
    files = {f"{source}/a.yaml": "ours" for source in SOURCES.values() if "." not in source}
    write(folder, {**files, "configs/jointdreamer.yaml": "a: 1", "configs/notes/a.txt": ""})
    use(monkeypatch, folder)
    monkeypatch.setattr(install, "_installed_encodings", lambda ours: None)
    return folder


def use(monkeypatch, clone: Path) -> None:
    monkeypatch.setattr(install, "CLONE", clone)
    monkeypatch.setattr(install, "PACKAGE", clone / "jointdreamer")
    extension = clone / "custom" / "threestudio-jointdreamer" / "__init__.py"
    monkeypatch.setattr("threestudio_jointdreamer.__file__", str(extension))


@pytest.fixture
def checkout(tmp_path):
    """A stand-in for a clone of threestudio, with a commit."""
    folder = make_checkout(tmp_path / "threestudio")
    git(folder, "init", "--quiet")
    git(folder, "add", "--force", ".")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", "all")
    return folder


def make_checkout(folder: Path, version: str = '"0.2.3"') -> Path:
    write(folder, {"threestudio/__init__.py": f"x = 1\n__version__ = {version}\n"})
    write(folder, {"launch.py": "", "configs/dreamfusion-sd.yaml": "", "load/tets/a": ""})
    return write(folder, {"custom/put_custom_extensions_here": "", ".gitignore": "custom/*\n"})


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def everything(folder: Path) -> dict[str, str]:
    """What each file holds and each link points to, .git's own bookkeeping aside."""
    found = {}
    for path in [*folder.rglob("*"), folder / ".git" / "info" / "exclude"]:
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file() and (".git" not in path.parts or path.name == "exclude"):
            found[name] = path.read_text()
    return found


def call(capsys, checkout: Path, *more: str) -> str:
    """What a call that ends well prints."""
    status = main(["install", "--threestudio", str(checkout), *more])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.out


def refused(capsys, checkout: Path, *more: str) -> str:
    """The one line of a call that changes nothing."""
    before = everything(checkout)
    assert main(["install", "--threestudio", str(checkout), *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert before == everything(checkout)
    return error


def made(checkout: Path) -> set[str]:
    return {name for name, text in everything(checkout).items() if text.startswith("->")}


def test_everything_is_linked_and_a_second_call_makes_what_is_missing(
    clone, checkout, capsys, monkeypatch
):
    monkeypatch.chdir(checkout)
    printed = call(capsys, Path("."))
    assert made(checkout) == LINKS
    monkeypatch.chdir("/")
    for link, source in SOURCES.items():
        assert (checkout / link).samefile(clone / source)
        assert f"linked   {link}\n" in printed
    assert "python launch.py --config configs/tiny/jointdreamer.yaml" in printed
    before = everything(checkout)
    printed = call(capsys, checkout)
    assert everything(checkout) == before
    assert "linked  " not in printed and "mended" not in printed
    (checkout / "load" / "tiny").unlink()
    assert "linked   load/tiny" in call(capsys, checkout)
    assert everything(checkout) == before


def test_git_status_stays_clean_and_uninstall_leaves_no_trace(clone, checkout, capsys):
    exclude = checkout / ".git" / "info" / "exclude"
    exclude.write_text("mine-before\n")
    before = everything(checkout)
    call(capsys, checkout)
    assert git(checkout, "status", "--short") == ""
    exclude.write_text(exclude.read_text() + "mine-after\n")
    call(capsys, checkout)
    assert git(checkout, "status", "--short") == ""
    call(capsys, checkout, "--uninstall")
    assert exclude.read_text() == "mine-before\nmine-after\n"
    exclude.write_text("mine-before\n")
    assert everything(checkout) == before
    assert "had none" in call(capsys, checkout, "--uninstall")
    assert everything(checkout) == before


def test_a_checkout_without_git_is_served_too(clone, tmp_path, capsys):
    call(capsys, make_checkout(tmp_path / "copy"))
    assert made(tmp_path / "copy") == LINKS


def test_links_of_a_clone_that_moved_are_mended_or_removed(
    clone, checkout, tmp_path, capsys, monkeypatch
):
    before = everything(checkout)
    call(capsys, checkout)
    (checkout / "load" / "mine").symlink_to("nowhere/load/tiny")
    use(monkeypatch, clone := clone.rename(tmp_path / "moved"))
    assert call(capsys, checkout).count("mended   ") == len(LINKS)
    assert (checkout / "custom/threestudio-jointdreamer/a.yaml").read_text() == "ours"
    use(monkeypatch, clone.rename(tmp_path / "moved again"))
    call(capsys, checkout, "--uninstall")
    assert made(checkout) == {"load/mine"}
    (checkout / "load" / "mine").unlink()
    assert everything(checkout) == before


def test_what_is_new_in_the_clone_is_linked_and_what_left_it_unlinked(clone, checkout, capsys):
    call(capsys, checkout)
    (clone / "configs" / "tiny").rename(clone / "configs" / "small")
    printed = call(capsys, checkout)
    assert made(checkout) == LINKS - {"configs/tiny"} | {"configs/small"}
    assert "removed  configs/tiny" in printed


def test_nothing_is_overwritten_and_all_that_is_in_the_way_is_named(clone, checkout, capsys):
    write(checkout, {"configs/jointdreamer.yaml": "mine", "tinycudann/__init__.py": "mine"})
    (checkout / "load" / "tiny").symlink_to("nowhere")
    error = refused(capsys, checkout)
    for name in ("configs/jointdreamer.yaml", "load/tiny", "tinycudann"):
        assert name in error
    assert "move it away" in error and made(checkout) == {"load/tiny"}


def test_uninstall_keeps_what_the_user_put_in_a_links_place(clone, checkout, capsys):
    call(capsys, checkout)
    for name in ("configs/jointdreamer.yaml", "load/tiny", "tinycudann"):
        (checkout / name).unlink()
    write(checkout, {"configs/jointdreamer.yaml": "mine"})
    (checkout / "load" / "tiny").symlink_to(checkout / "load" / "tets")
    write(checkout, {"threestudio/__init__.py": '__version__ = "0.4"'})  # updated since
    call(capsys, checkout, "--uninstall")
    assert (checkout / "configs" / "jointdreamer.yaml").read_text() == "mine"
    assert made(checkout) == {"load/tiny"}


def test_a_system_without_links_is_told_what_to_do(clone, checkout, capsys, monkeypatch):
    def refuse(*arguments):
        raise OSError(1, "not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    told = refused(capsys, checkout)
    assert "Developer Mode" in told and "THREESTUDIO_ROOT" in told


@pytest.mark.parametrize(
    "version, said",
    [('"0.2.2"', "threestudio 0.2.2"), ('"0.3.0"', "0.3.0"), ("get()", "of unknown version")],
)
def test_another_version_of_threestudio_is_refused(clone, tmp_path, capsys, version, said):
    error = refused(capsys, make_checkout(tmp_path / "other", version))
    assert said in error and ">=0.2.3 and <0.3" in error


@pytest.mark.parametrize("folder", ["nowhere", "clone", "clone/custom"])
def test_what_is_no_checkout_is_refused(clone, tmp_path, capsys, folder):
    for more in ([], ["--uninstall"]):
        assert "is no checkout of threestudio" in refused(capsys, tmp_path / folder, *more)


def test_the_stand_in_host_is_no_checkout(capsys):
    assert main(["install", "--threestudio", str(ROOT / "jointdreamer" / "standalone")]) == 2
    assert "is no checkout of threestudio" in capsys.readouterr().err


def test_where_tiny_cuda_nn_works_ours_is_not_linked(clone, checkout, capsys, monkeypatch):
    call(capsys, checkout)
    monkeypatch.setattr(install, "_installed_encodings", lambda ours: "/site/tinycudann")
    assert "tiny-cuda-nn at /site/tinycudann" in call(capsys, checkout)
    assert made(checkout) == LINKS - {"tinycudann"}


@pytest.mark.parametrize(
    "text, works", [("", True), ("raise OSError('no GPU')", False), (None, False)]
)
def test_whether_tiny_cuda_nn_works_is_tried(tmp_path, monkeypatch, text, works):
    if text is not None:
        write(tmp_path, {"tinycudann/__init__.py": text})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = install._installed_encodings(Path("elsewhere"))
    assert found == (tmp_path / "tinycudann" if works else None)


def test_our_encodings_on_the_path_are_no_tiny_cuda_nn(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "jointdreamer" / "standalone"))
    assert install._installed_encodings(install.sources()["tinycudann"]) is None


def test_the_real_clone_has_all_that_is_linked():
    wanted = install.sources()
    assert LINKS | {"configs/mixed", "configs/energies"} <= set(wanted)
    assert all(source.exists() for source in wanted.values())
