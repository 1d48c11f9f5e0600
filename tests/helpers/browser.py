"""A headless Chromium, where there is one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run
    --disable-background-networking --disable-component-update --disable-sync
    --use-angle=swiftshader --enable-unsafe-swiftshader""".split()

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to look with")


@contextmanager
def new_page(profile: Path) -> Iterator[Any]:
    """A page of playwright's, without which the test is skipped; `profile` is an empty folder."""
    playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=FLAGS
        )
        yield browser.new_page()
        browser.close()
