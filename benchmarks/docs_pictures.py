"""Makes the pictures of README that come from the shipped weights, and notes what they are made of.

    python -m benchmarks.docs_pictures            # all, some minutes on a CPU
    python -m benchmarks.docs_pictures demo.png   # those that one command makes

docs/results/pictures.json has the command and the digest of the inputs of each; a test compares
these with the files as they are, so that a picture that nobody made anew is found.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from threestudio_jointdreamer.files import replacing

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NOTES = DOCS / "results" / "pictures.json"
TINY = ROOT / "load" / "tiny"
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # of Chromium


@dataclass(frozen=True)
class Source:
    """A `jointdreamer` command, which gets `--out`, and what becomes of its files."""

    command: str
    pictures: dict[str, str]  # below docs/: the file below --out, a pattern
    inputs: tuple[Path, ...]  # files and folders

    def digest(self) -> str:
        """Of the command and of every file that the pictures follow from."""
        found = hashlib.sha256(self.command.encode())
        for path in self.inputs:
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    found.update(file.read_bytes())
        return found.hexdigest()

    def make(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "jointdreamer.cli", *self.command.split(" ")]
            subprocess.run([*command, "--out", folder], check=True, cwd=ROOT)
            for picture, pattern in self.pictures.items():
                (made,) = Path(folder).glob(pattern)
                take = photograph if made.suffix == ".html" else shutil.copy
                take(made, DOCS / picture)


def photograph(page: Path, picture: Path) -> None:
    """The top of a run's page in Chromium, its model half turned to the side."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        view = browser.new_page(viewport={"width": 900, "height": 560})
        view.goto(page.as_uri())
        model = view.locator("model-viewer")
        while not model.evaluate("viewer => viewer.loaded"):
            view.wait_for_timeout(100)
        model.evaluate(
            "viewer => (viewer.autoRotate = false) || viewer.resetTurntableRotation(-0.8)"
        )
        view.wait_for_timeout(2000)
        view.screenshot(path=picture)
        browser.close()


SD, SD3, MVDREAM, WONDER3D, IMAGEDREAM = (
    TINY / name
    for name in ("stable-diffusion", "stable-diffusion-3", "mvdream", "wonder3d", "imagedream")
)
WORLD = ROOT / "jointdreamer" / "tinyworld"
SOURCES = (
    Source(
        "demo",
        {
            "demo.png": "demo/*/contact_sheet.png",
            "curves.png": "demo/*/curves.png",
            "page.png": "demo/*/index.html",
        },
        (ROOT / "configs" / "tiny" / "jointdreamer.yaml", SD, MVDREAM),
    ),
    Source(
        "tinyworld samples",
        {
            f"samples-{prior}.png": f"samples-{prior}.png"
            for prior in ("stable-diffusion", "mvdream", "wonder3d")
        },
        (SD, MVDREAM, WONDER3D, WORLD / "captions.py"),
    ),
    Source(
        "tinyworld samples --prior stable-diffusion-3",
        {"samples-stable-diffusion-3.png": "samples-stable-diffusion-3.png"},
        (SD / "vae", SD3, WORLD / "captions.py"),
    ),
    Source(
        "tinyworld samples --prior imagedream",
        {"samples-imagedream.png": "samples-imagedream.png"},
        (SD, IMAGEDREAM, WONDER3D / "image_encoder", WORLD / "captions.py"),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="*", help="all by default")
    wanted = parser.parse_args().pictures
    for source in SOURCES:
        if not wanted or source.pictures.keys() & set(wanted):
            source.make()
            notes = json.loads(NOTES.read_text()) if NOTES.exists() else {}
            notes |= {
                picture: {"command": f"jointdreamer {source.command}", "inputs": source.digest()}
                for picture in source.pictures
            }
            with replacing(NOTES) as new:
                new.write_text(json.dumps(notes, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
