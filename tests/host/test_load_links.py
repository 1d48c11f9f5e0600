"""What threestudio keeps in load/, seen from a run that starts in our clone."""

import pytest

from jointdreamer.host.load_links import link_load_folder


def make_checkout(folder):
    (folder / "threestudio").mkdir(parents=True)
    (folder / "threestudio" / "__init__.py").touch()
    (folder / "load" / "tets").mkdir(parents=True)
    (folder / "load" / "tets" / "64_tets.npz").write_text(folder.name)
    (folder / "load" / "prompt_library.json").write_text("{}")
    return folder


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Our load/, in the folder that the run starts in."""
    folder = tmp_path / "clone" / "load"
    (folder / "tiny").mkdir(parents=True)
    monkeypatch.chdir(folder.parent)
    return folder


@pytest.fixture
def checkout(tmp_path):
    return make_checkout(tmp_path / "threestudio")


def test_threestudios_own_relative_paths_lead_to_the_checkout(load, checkout):
    link_load_folder(checkout, load)
    assert (load / "tets" / "64_tets.npz").read_text() == "threestudio"
    assert {path.name for path in load.iterdir()} == {"tiny", "tets", "prompt_library.json"}


def test_another_checkout_takes_the_links_over_and_a_dead_one_is_mended(load, checkout, tmp_path):
    link_load_folder(make_checkout(tmp_path / "old"), load)
    link_load_folder(checkout, load)
    assert (load / "tets" / "64_tets.npz").read_text() == "threestudio"
    checkout.rename(tmp_path / "moved")
    link_load_folder(tmp_path / "moved", load)
    assert (load / "tets" / "64_tets.npz").is_file()


def test_what_is_there_stays(load, checkout, tmp_path):
    (load / "prompt_library.json").write_text("mine")
    (tmp_path / "my-tets").mkdir()
    (load / "tets").symlink_to(tmp_path / "my-tets")
    link_load_folder(checkout, load)
    assert (load / "prompt_library.json").read_text() == "mine"
    assert (load / "tets").resolve() == tmp_path / "my-tets"


def test_neither_our_own_files_nor_anything_from_another_folder_is_linked(
    load, checkout, tmp_path, monkeypatch
):
    (load / "prompts").mkdir()
    (checkout / "load" / "by-install").symlink_to(load / "prompts")
    link_load_folder(checkout, load)
    assert not (load / "by-install").exists() and (load / "tets").exists()
    (load / "tets").unlink()
    monkeypatch.chdir(tmp_path)
    link_load_folder(checkout, load)
    assert not (load / "tets").exists()


def test_a_disk_without_links_is_told_with_what_to_do(load, checkout, monkeypatch):
    def refuse(*arguments):
        raise OSError("links are not for this disk")

    monkeypatch.setattr("os.symlink", refuse)
    with pytest.raises(ValueError, match="cannot be linked into .* start in the checkout instead"):
        link_load_folder(checkout, load)
    assert [path.name for path in load.iterdir()] == ["tiny"]
