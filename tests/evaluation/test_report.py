"""The report opens from disk without a network; a headless Chromium sorts its tables."""

import base64
import io
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import CHROMIUM, FLAGS, needs_chromium
from helpers.finished_runs import write_run
from PIL import Image

from jointdreamer.evaluation.assets import find_runs, read_asset
from jointdreamer.evaluation.measure import Evaluation
from jointdreamer.evaluation.report import write_report
from jointdreamer.evaluation.rows import AssetRow, by_method

ROW = AssetRow("", "", 0, "", 20, 8, "tiny", 0.0, 50.0, 1, 4, 0.1, 1, 8, "60", False, False)


@pytest.fixture
def evaluation(tmp_path) -> Evaluation:
    """Two assets, the second with a prompt and folder that bite."""
    pictures, curve = [np.zeros((40, 60, 3), np.uint8)] * 13, [1.0, 5.0, 2.0, 4.0]
    for name, prompt in (("a", "a cat"), ("b<b>", '<script>alert("x")</script> & a $cat')):
        write_run(tmp_path / name, prompt, pictures, name=name, grad_norms=curve)
    assets = [read_asset(run) for run in find_runs([tmp_path])]
    rows = [
        replace(ROW, method=asset.method, prompt=asset.prompt, clip_score=score, janus=janus)
        for asset, score, janus in zip(assets, (9.5, 10.25), (False, True), strict=True)
    ]
    return Evaluation(assets, rows, by_method(rows, {}), {"CLIP": "<tiny>"}, ["c was not tested"])


@pytest.fixture
def report(evaluation, tmp_path) -> Path:
    path = tmp_path / "a folder" / "report.html"
    write_report(path, evaluation)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path


def test_page_refers_to_nothing_outside_itself_and_prompts_cannot_break_it(report):
    page = report.read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 4 and all(source.startswith("data:image/") for source in sources)
    assert "http" not in page.replace("http-equiv", "") and "url(" not in page
    assert "default-src 'none'" in page
    assert page.count("<script>") == 1 and "alert(&#34;x&#34;)" in page
    assert "&amp; a $cat" in page and "b&lt;b&gt;" in page and "&lt;tiny&gt;" in page
    assert "c was not tested" in page


def test_every_picture_can_be_decoded(report):
    uris = re.findall(r'src="data:image/[a-z]+;base64,([^"]*)"', report.read_text())
    pictures = [Image.open(io.BytesIO(base64.b64decode(uri))) for uri in uris]
    assert [picture.convert("RGB").size for picture in pictures] == [(576, 192), (144, 96)] * 2


@needs_chromium
def test_a_click_sorts_by_number_and_a_second_one_turns_the_order(report):
    page = report.read_text()
    for clicks, expected in ((1, ["9.50", "10.25"]), (2, ["10.25", "9.50"])):
        click = 'document.querySelector("#assets [data-key=clip_score] button").click();' * clicks
        report.write_text(page.replace("</html>", f"<script>{click}</script></html>"))
        command = [CHROMIUM, *FLAGS, "--dump-dom"]
        command += ["--virtual-time-budget=3000", report.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        table = done.stdout.partition('id="assets"')[2]
        assert re.findall(r"<td data-order=\"[\d.]+\">(\d+\.\d\d)</td>", table) == expected


def test_report_is_written_whole_or_not_at_all(evaluation, tmp_path):
    evaluation.assets[1].frames[6].path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"6\.png"):
        write_report(tmp_path / "out" / "report.html", evaluation)
    assert not (tmp_path / "out").exists()
