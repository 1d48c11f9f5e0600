"""`jointdreamer install`: links in a checkout of threestudio, and their removal without a trace."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from jointdreamer import install, links
from jointdreamer.cli import main

ROOT = Path(__file__).resolve().parents[1]
LINKS = {
    "custom/threestudio-jointdreamer",
    *("configs/jointdreamer.yaml", "configs/tiny", "load/tiny", "load/prompts", "tinycudann"),
}
GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]


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
    write(
        folder,
        {
            "custom/threestudio-jointdreamer/a.py": "ours",
            "jointdreamer/standalone/tinycudann/a": "",
        },
    )
    write(folder, {"configs/jointdreamer.yaml": "a: 1", "configs/tiny/sds.yaml": "a: 1"})
    write(folder, {"configs/notes.txt": "no config", "load/tiny/a": "", "load/prompts/a": ""})
    monkeypatch.setattr(install, "CLONE", folder)
    monkeypatch.setattr(install, "_installed_encodings", lambda: None)
    return folder


@pytest.fixture
def checkout(tmp_path):
    """A stand-in for a clone of threestudio, with a commit."""
    return make_checkout(tmp_path / "threestudio")


def make_checkout(folder: Path, version: str = '"0.2.3"', git: bool = True) -> Path:
    write(folder, {"threestudio/__init__.py": f"x = 1\n__version__ = {version}\n"})
    write(folder, {"launch.py": "", "configs/dreamfusion-sd.yaml": "", "load/tets/a": ""})
    write(folder, {"custom/put_custom_extensions_here": "", ".gitignore": "custom/*\n"})
    if git:
        run(folder, "init", "--quiet")
        run(folder, "add", "--force", ".")
        run(folder, "commit", "--quiet", "--message", "all")
    return folder


def run(folder: Path, *arguments: str) -> str:
    command = [*GIT, "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def everything(folder: Path) -> dict[str, str]:
    """What each file holds and each link points to, .git's own bookkeeping aside."""
    found = {}
    for parent, folders, files in os.walk(folder):
        if Path(parent, ".git").is_dir():
            folders.remove(".git")
        for path in (Path(parent, name) for name in [*folders, *files]):
            name = str(path.relative_to(folder))
            if path.is_symlink():
                found[name] = f"-> {os.readlink(path)}"
            else:
                found[name] = path.read_text() if path.is_file() else "folder"
    exclude = folder / ".git" / "info" / "exclude"
    if exclude.is_file():
        found["exclude"] = exclude.read_text()
    return found


def call(capsys, checkout: Path, *more: str) -> str:
    """What a call that ends well prints."""
    status = main(["install", "--threestudio", str(checkout), *more])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.out


def refused(capsys, checkout: Path, *more: str) -> str:
    """The one line of a call that changes nothing."""
    before = everything(checkout) if checkout.is_dir() else None
    assert main(["install", "--threestudio", str(checkout), *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert before == (everything(checkout) if checkout.is_dir() else None)
    return error


def made(checkout: Path) -> set[str]:
    return {name for name, text in everything(checkout).items() if text.startswith("->")}


def test_everything_is_linked_and_leads_to_the_clone(clone, checkout, capsys):
    printed = call(capsys, checkout)
    assert made(checkout) == LINKS
    assert (checkout / "custom/threestudio-jointdreamer/a.py").read_text() == "ours"
    assert (checkout / "configs/tiny/sds.yaml").is_file()
    assert all(f"linked   {link}" in printed for link in LINKS)
    assert "python launch.py --config configs/tiny/jointdreamer.yaml" in printed


def test_uninstall_leaves_not_a_trace(clone, checkout, capsys):
    before = everything(checkout)
    call(capsys, checkout)
    assert everything(checkout) != before
    call(capsys, checkout, "--uninstall")
    assert everything(checkout) == before


def test_git_status_stays_clean_by_an_entry_of_this_clone_only(clone, checkout, capsys):
    call(capsys, checkout)
    assert run(checkout, "status", "--short") == ""
    call(capsys, checkout, "--no-git-exclude")
    shown = run(checkout, "status", "--short").split()[1::2]
    assert set(shown) == LINKS - {"custom/threestudio-jointdreamer"} | {links.RECORD}


def test_the_users_own_exclude_entries_stay(clone, checkout, capsys):
    exclude = checkout / ".git" / "info" / "exclude"
    exclude.write_text("mine-before\n")
    call(capsys, checkout)
    exclude.write_text(exclude.read_text() + "mine-after\n")
    call(capsys, checkout)
    call(capsys, checkout, "--uninstall")
    assert exclude.read_text() == "mine-before\nmine-after\n"


def test_a_folder_of_another_repository_gets_no_exclude_entries(clone, tmp_path, capsys):
    outer = make_checkout(tmp_path / "outer")
    inner = make_checkout(outer / "threestudio-copy", git=False)
    before = everything(outer)["exclude"]
    assert "no git repository of its own" in call(capsys, inner)
    assert everything(outer)["exclude"] == before


def test_a_second_call_has_nothing_to_do(clone, checkout, capsys):
    call(capsys, checkout)
    before = everything(checkout)
    assert "Nothing to do" in call(capsys, checkout)
    assert everything(checkout) == before


def test_a_relative_path_makes_links_that_work_from_anywhere(clone, checkout, capsys, monkeypatch):
    monkeypatch.chdir(checkout)
    call(capsys, Path("."))
    assert (checkout / "custom/threestudio-jointdreamer/a.py").read_text() == "ours"


def test_a_moved_clone_is_mended(clone, checkout, tmp_path, capsys, monkeypatch):
    call(capsys, checkout)
    moved = clone.rename(tmp_path / "moved")
    monkeypatch.setattr(install, "CLONE", moved)
    assert call(capsys, checkout).count("mended   ") == len(LINKS)
    assert (checkout / "custom/threestudio-jointdreamer/a.py").read_text() == "ours"
    call(capsys, checkout, "--uninstall")
    assert made(checkout) == set()


def test_uninstall_knows_dead_links_of_a_clone_that_moved(clone, checkout, tmp_path, capsys):
    before = everything(checkout)
    call(capsys, checkout)
    clone.rename(tmp_path / "moved")
    call(capsys, checkout, "--uninstall")
    assert everything(checkout) == before


def test_what_is_new_in_the_clone_is_linked_and_what_left_it_unlinked(clone, checkout, capsys):
    call(capsys, checkout)
    write(clone, {"configs/new.yaml": "a: 1"})
    (clone / "configs" / "jointdreamer.yaml").rename(clone / "configs" / "renamed.yaml")
    write(clone, {"configs/jointdreamer.yaml": "a: 1"})
    (clone / "configs" / "tiny" / "sds.yaml").unlink()
    printed = call(capsys, checkout)
    assert made(checkout) == LINKS - {"configs/tiny"} | {"configs/new.yaml", "configs/renamed.yaml"}
    assert "removed  configs/tiny" in printed


@pytest.mark.parametrize(
    "path", ["configs/jointdreamer.yaml", "load/tiny/mine", "tinycudann/__init__.py"]
)
def test_nothing_is_overwritten_and_nothing_half_done(clone, checkout, capsys, path):
    write(checkout, {path: "mine"})
    error = refused(capsys, checkout)
    assert "/".join(path.split("/")[:2]).removesuffix("/__init__.py") in error
    assert "move it away" in error and made(checkout) == set()


def test_all_that_is_in_the_way_is_named_at_once(clone, checkout, capsys):
    write(checkout, {"configs/jointdreamer.yaml": "mine"})
    (checkout / "load" / "tiny").symlink_to("nowhere")
    error = refused(capsys, checkout)
    assert "configs/jointdreamer.yaml" in error and "load/tiny" in error


def test_a_file_in_place_of_a_folder_is_named(clone, checkout, capsys):
    (checkout / "custom" / "put_custom_extensions_here").unlink()
    (checkout / "custom").rmdir()
    (checkout / "custom").write_text("mine")
    assert "already has custom," in refused(capsys, checkout)


def test_a_link_by_hand_to_the_same_place_is_the_users(clone, checkout, capsys):
    by_hand = checkout / "custom" / "threestudio-jointdreamer"
    by_hand.symlink_to(Path("../../clone/custom/threestudio-jointdreamer"))
    assert "yours    custom/threestudio-jointdreamer" in call(capsys, checkout)
    call(capsys, checkout, "--uninstall")
    assert made(checkout) == {"custom/threestudio-jointdreamer"}


def test_uninstall_keeps_and_names_what_the_user_put_in_a_links_place(clone, checkout, capsys):
    call(capsys, checkout)
    (checkout / "configs" / "jointdreamer.yaml").unlink()
    write(checkout, {"configs/jointdreamer.yaml": "mine"})
    (checkout / "load" / "tiny").unlink()
    (checkout / "load" / "tiny").symlink_to(checkout / "load" / "tets")
    (checkout / "tinycudann").unlink()
    printed = call(capsys, checkout, "--uninstall")
    assert "kept     configs/jointdreamer.yaml" in printed and "kept     load/tiny" in printed
    assert "gone     tinycudann" in printed
    assert (checkout / "configs" / "jointdreamer.yaml").read_text() == "mine"
    assert made(checkout) == {"load/tiny"}


def test_uninstall_without_an_install_has_nothing_to_do(clone, checkout, capsys):
    before = everything(checkout)
    assert "Nothing to do" in call(capsys, checkout, "--uninstall")
    assert everything(checkout) == before


def test_uninstall_works_after_threestudio_was_updated(clone, checkout, capsys):
    call(capsys, checkout)
    write(checkout, {"threestudio/__init__.py": '__version__ = "0.4"'})
    call(capsys, checkout, "--uninstall")
    assert made(checkout) == set()


def test_a_link_that_cannot_be_made_undoes_the_others(clone, checkout, capsys, monkeypatch):
    count, symlink = iter(range(100)), os.symlink

    def full_disk(*arguments):
        if next(count) == 3:
            raise OSError(28, "No space left on device")
        symlink(*arguments)

    monkeypatch.setattr(os, "symlink", full_disk)
    assert "No space left" in refused(capsys, checkout)


def test_a_mending_that_fails_leaves_the_old_links(clone, checkout, tmp_path, capsys, monkeypatch):
    call(capsys, checkout)
    monkeypatch.setattr(install, "CLONE", clone.rename(tmp_path / "moved"))
    count, replace = iter(range(100)), os.replace

    def full_disk(source, target):
        if next(count) == 3:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_disk)
    error = refused(capsys, checkout)
    assert "No space left" in error


@pytest.mark.parametrize("error", [OSError(1, "not permitted"), NotImplementedError("no links")])
def test_a_system_without_links_is_told_with_what_to_do(
    clone, checkout, capsys, monkeypatch, error
):
    def refuse(*arguments):
        raise error

    monkeypatch.setattr(os, "symlink", refuse)
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
    error = refused(capsys, tmp_path / folder)
    assert "is no checkout of threestudio" in error and "threestudio/__init__.py" in error


def test_our_own_repository_is_no_checkout(capsys):
    for folder in (ROOT, ROOT / "jointdreamer" / "standalone"):
        with pytest.raises(ValueError, match="is no checkout of threestudio"):
            install.check_checkout(folder)


def test_an_extension_without_its_clone_is_told(checkout, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(install, "CLONE", tmp_path / "site-packages")
    assert "pip install -e ." in refused(capsys, checkout)


@pytest.mark.parametrize("text", ["{", "{}", '{"layout": 99, "links": {}, "folders": []}'])
def test_a_damaged_record_is_told_and_nothing_touched(clone, checkout, capsys, text):
    write(checkout, {links.RECORD: text})
    assert links.RECORD in refused(capsys, checkout)
    assert links.RECORD in refused(capsys, checkout, "--uninstall")


def test_the_record_lists_every_link_with_what_it_points_to(clone, checkout, capsys):
    call(capsys, checkout)
    record = json.loads((checkout / links.RECORD).read_text())
    assert record["links"] == {path: os.readlink(checkout / path) for path in LINKS}


def test_where_tiny_cuda_nn_works_ours_is_not_linked(clone, checkout, capsys, monkeypatch):
    monkeypatch.setattr(install, "_installed_encodings", lambda: "/site/tinycudann")
    assert "tiny-cuda-nn at /site/tinycudann" in call(capsys, checkout)
    assert made(checkout) == LINKS - {"tinycudann"}


def test_a_tiny_cuda_nn_that_came_later_changes_no_link(clone, checkout, capsys, monkeypatch):
    call(capsys, checkout)
    monkeypatch.setattr(install, "_installed_encodings", lambda: "/site/tinycudann")
    assert "Nothing to do" in call(capsys, checkout)
    assert made(checkout) == LINKS


@pytest.mark.parametrize(
    "text, works", [("", True), ("raise OSError('no GPU')", False), (None, False)]
)
def test_whether_tiny_cuda_nn_works_is_tried(tmp_path, monkeypatch, text, works):
    if text is not None:
        write(tmp_path, {"tinycudann/__init__.py": text})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = install._installed_encodings()
    assert found == (str(tmp_path / "tinycudann") if works else None)


def test_our_encodings_on_the_path_are_no_tiny_cuda_nn(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "jointdreamer" / "standalone"))
    assert install._installed_encodings() is None


def test_the_real_clone_has_all_that_is_linked(tmp_path):
    wanted = install.wanted_links()
    assert {"configs/jointdreamer.yaml", "configs/tiny", "load/tiny"} <= set(wanted)
    assert all(target.exists() for target in wanted.values())
    install.check_clone()
