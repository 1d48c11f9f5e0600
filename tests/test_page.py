"""A demo's page and its mesh: in a browser, beside the run's renders, by Khronos' validator."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import threestudio
from helpers.browser import needs_chromium, new_page
from helpers.finished_runs import write_run
from PIL import Image
from threestudio.models.geometry.implicit_volume import ImplicitVolume

from benchmarks.asset_psnr import compare
from jointdreamer.cli import main
from jointdreamer.runs import Run, read_picture

PROMPT = 'a red bear, <i>5" & small</i>'
SIZE = 64
VALIDATE = """
const fs = require('fs'), validator = require('gltf-validator');
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))
  .then((report) => console.log(JSON.stringify(report)));
"""
TURNS = """async (viewer) => {
  const frame = () => new Promise(requestAnimationFrame);
  while (!viewer.loaded || Math.abs(viewer.turntableRotation) < 0.1) await frame();
  viewer.autoRotate = false;
  viewer.resetTurntableRotation(0);
  return "it turns";
}"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The demo's folder after one step of a hard ball, each side of which has another colour."""

    class ColouredBall(ImplicitVolume):
        def forward(self, points, output_normal=False):
            return {**super().forward(points, output_normal), **self.export(points)}

        def export(self, points, **kwargs):
            return {"features": 4 * points}

    threestudio.register("test-coloured-ball")(ColouredBall)
    out = tmp_path_factory.mktemp("out")
    small = ["trainer.max_steps=1", "trainer.limit_val_batches=0", "trainer.log_every_n_steps=1"]
    small += ["data.width=16", "data.height=16", "data.n_test_views=17"]
    small += [f"data.eval_width={SIZE}", f"data.eval_height={SIZE}"]
    small += ["system.exporter.texture_size=256", "system.exporter.n_faces=4000"]
    small += ["system.geometry_type=test-coloured-ball", "system.geometry.density_blob_scale=80"]
    try:
        assert main(["demo", "--prompt", PROMPT, "--out", str(out), *small]) == 0
    finally:
        del threestudio.__modules__["test-coloured-ball"]
    (folder,) = (out / "demo").iterdir()
    return folder


def test_page_is_whole_without_a_network_and_its_links_lead_to_files(run):
    page = (run / "index.html").read_text(encoding="utf-8")
    shown, script = page.split('<script type="module">')
    assert "<i>5" not in shown and "a red bear, &lt;i&gt;" in shown
    sources = re.findall(r'(?:src|href)="([^"]*)"', shown)
    embedded = [source for source in sources if source.startswith("data:")]
    kinds = [source.partition(";")[0] for source in embedded]
    assert kinds == ["data:model/gltf-binary", "data:video/mp4", "data:image/png", "data:image/png"]
    linked = {source for source in sources if source not in embedded}
    assert all((run / name).is_file() for name in linked)
    assert {Path(name).suffix for name in linked} >= {".glb", ".mp4", ".png", ".yaml", ".ckpt"}
    assert "default-src 'none'" in shown and script.count("</script>") == 1
    for text in ("jsd-multiview-energy", "last SDS loss", "peak memory", "no face", "n_view: 4"):
        assert text in shown


def test_a_page_of_gaussians_shows_the_film_alone_and_faces_where_asked(tmp_path, capsys):
    frames = [np.full((16, 16, 3), 100, np.uint8)] * 13
    run = write_run(tmp_path / "run", "a cat", frames)
    (run / "save" / "it20-test.mp4").write_bytes(b"film")
    (run / "save" / "it20-export").mkdir()
    (run / "save" / "it20-export" / "model.glb").write_bytes(b"glTF KHR_gaussian_splatting")
    assert main(["page", str(run), "--janus", "tiny"]) == 0
    assert capsys.readouterr().out.strip() == str(run / "index.html")
    page = (run / "index.html").read_text(encoding="utf-8")
    assert "model-viewer" not in page.partition("</style>")[2] and "data:video/mp4" in page
    assert 'href="save/it20-export/model.glb"' in page and "<dt>faces<dd>no face" in page
    assert main(["page", str(tmp_path)]) == 2
    assert "Is " in capsys.readouterr().err


def test_the_mesh_looks_like_the_volume_from_eight_sides(run):
    pytest.importorskip("embreex", reason="casts the rays")
    rows = compare(Run(run))
    assert [row["azimuth"] for row in rows] == list(range(0, 360, 45))
    assert min(row["psnr_db"] for row in rows) > 27


def test_khronos_finds_no_error_in_the_glb(run, tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("no npm, which brings gltf-validator")
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "gltf-validator"
    if not (cache / "node_modules" / "gltf-validator").is_dir():
        install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(tmp_path)]
        done = subprocess.run([*install, "gltf-validator@2.0.0-dev.3.10"], capture_output=True)
        if done.returncode:
            pytest.skip("npm cannot fetch gltf-validator")
        shutil.copytree(tmp_path, cache, dirs_exist_ok=True)
    command = ["node", "-e", VALIDATE, str(run / "asset.glb")]
    report = json.loads(subprocess.run(command, cwd=cache, capture_output=True, check=True).stdout)
    assert report["info"]["totalTriangleCount"] > 1000
    assert report["issues"]["numErrors"] == report["issues"]["numWarnings"] == 0, report["issues"]


@needs_chromium
def test_a_browser_shows_the_model_as_the_run_renders_it(run, tmp_path):
    """The mesh is lit there, so colours are near and not the same."""
    stray, errors = [], []
    with new_page(tmp_path) as page:
        page.on("request", lambda request: stray.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((run / "index.html").as_uri())
        model = page.locator("model-viewer")
        assert model.evaluate(TURNS) == "it turns"
        page.wait_for_timeout(500)
        model.screenshot(path=str(run / "screenshot.png"))
    assert not errors and all(url.startswith(("file:", "data:", "blob:")) for url in stray)
    frame = read_picture(Run(run).newest("test") / "0.png")
    with Image.open(run / "screenshot.png") as picture:
        seen = np.asarray(picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX))

    def psnr(picture):
        return -10 * np.log10(((picture / 255 - frame / 255) ** 2).mean())

    assert psnr(seen) > max(24, psnr(seen[:, ::-1]) + 3)
