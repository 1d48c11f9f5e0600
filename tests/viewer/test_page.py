"""The page in a browser, and where it listens."""

import socket
import subprocess
import sys
import time
from io import BytesIO
from math import radians

import numpy as np
import pytest
from helpers.browser import needs_chromium, new_page
from helpers.real_threestudio import ROOT
from helpers.tiny_run import write_tiny_config
from omegaconf import OmegaConf
from PIL import Image

from jointdreamer.host.checkpoints import read_checkpoint
from jointdreamer.host.options import parse_arguments
from jointdreamer.viewer.page import Page
from jointdreamer.viewer.rendering import Viewpoint

pytest.importorskip("viser", reason="viser is missing.")
VIEW = Viewpoint((2.75, 0.0, 0.7), (0.0, 0.0, 0.0), (0.0, 0.0, 1.0), radians(40), 1.0)
ENERGY = "energy_weight"


def look_and_stop(port: int, profile) -> None:
    """What somebody does with the page."""
    with new_page(profile) as page:
        page.set_default_timeout(60_000)
        page.goto(f"http://127.0.0.1:{port}")
        page.get_by_text("training").wait_for()
        page.get_by_role("button", name="Pause").click()
        page.get_by_text("paused").wait_for()
        paused = page.get_by_text("of 100000").inner_text().partition(" · guidance_scale")[0]
        page.get_by_role("tab", name="Guidance").click()
        page.get_by_text("What the guidance saw").wait_for()
        page.get_by_role("textbox", name=ENERGY).fill("0.125")
        page.get_by_role("button", name=f"Hold {ENERGY} from now on").click()
        page.get_by_role("tab", name="Curves").click()
        page.get_by_text("loss_sds").first.wait_for()
        seen = Image.open(BytesIO(page.screenshot())).convert("RGB").crop((150, 150, 450, 450))
        assert len(np.unique(np.asarray(seen).reshape(-1, 3), axis=0)) > 20  # a render, no blank
        page.get_by_text(f"{ENERGY} 0.125").wait_for()
        assert page.get_by_text("of 100000").inner_text().startswith(paused)
        page.get_by_role("button", name="Stop with a checkpoint").click()


def wait_for(port: int, running: subprocess.Popen) -> None:
    """Until the run listens there, or has ended."""
    while running.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.2)


@needs_chromium
def test_a_browser_sees_a_run_pauses_it_changes_it_and_stops_it(tmp_path, sd_folder, mv_folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    many = {"max_steps": 100_000, "val_check_interval": 100_000}
    changes = {"trainer": many, "system": {"guidance_eval_step": 2}}
    config = write_tiny_config(tmp_path / "config.yaml", sd_folder, mv_folder, **changes)
    command = [sys.executable, "launch.py", "--config", str(config), "--train"]
    command += ["--view", "--view-port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as running:
        try:
            wait_for(port, running)
            look_and_stop(port, tmp_path / "profile")
            assert running.wait(60) == 130
        finally:
            running.kill()
    trial = tmp_path / "outputs" / "tiny" / "run"
    step = read_checkpoint(trial / "ckpts" / "last.ckpt")["global_step"]
    weight = OmegaConf.load(trial / "configs" / "parsed.yaml").system.guidance[ENERGY]
    assert weight[-2:] == [0.125, step - 1]


def test_a_taken_port_is_said_and_what_cannot_be_is_told(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        page = Page(taken, "a bear", trains=False, view=VIEW, size=64)
    page.close()
    assert page.address.startswith("http://127.0.0.1:")
    assert page.address.endswith(f" ({taken} is taken)")
    with pytest.raises(ValueError, match="cannot listen at port 70000: give one up to 60000"):
        Page(70_000, "", trains=False, view=VIEW, size=64)
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(ValueError, match="needs viser: pip install"):
        Page(8080, "", trains=False, view=VIEW, size=64)
    with pytest.raises(ValueError, match="--view goes with --train; `jointdreamer view RUN`"):
        parse_arguments(["--config", "configs/tiny/sds.yaml", "--test", "--view"])
