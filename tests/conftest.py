"""Puts a host on the path and makes `threestudio_jointdreamer` importable for every test."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
for path in (ROOT, ROOT / "tests"):
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))

from jointdreamer.host.selection import ensure_host, load_extension  # noqa: E402

torch.set_num_threads(min(2, torch.get_num_threads()))
ensure_host()
load_extension()

from helpers.prior_fixtures import (  # noqa: E402, F401
    batch_sizes,
    compiled,
    mv_folder,
    register,
    sd_folder,
    sd_prior,
)


@pytest.fixture(autouse=True)
def same_random_numbers_in_any_order():
    torch.manual_seed(0)
