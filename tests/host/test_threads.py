"""How many threads a command and its children use."""

import os
import subprocess
import sys

import pytest

from jointdreamer.host.threads import threads_for_each

SHOW = """
import os, subprocess, sys
from jointdreamer import cli
from jointdreamer.host import launcher, selection
def show():
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
    child = f'import os; print(*(os.environ.get(name) for name in {names}))'
    assert "torch" not in sys.modules
    raise SystemExit(subprocess.call([sys.executable, "-c", child]))
selection.ensure_host = launcher.ensure_host = show
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
"""


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, "PASSIVE 1000 1"),
        ({"OMP_NUM_THREADS": "5", "OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None 5"),
        ({"GOMP_SPINCOUNT": "7"}, "PASSIVE 7 1"),
    ],
)
@pytest.mark.parametrize(
    "command",
    ["cli.main(['doctor'])", "launcher.main(['--train', '--config', 'configs/authors.yaml'])"],
)
def test_threads_sleep_and_are_as_many_as_cores_unless_the_user_says(command, given, expected):
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))
    } | given
    code = [sys.executable, "-c", SHOW + command]
    done = subprocess.run(code, capture_output=True, text=True, env=environment)
    assert done.stdout == f"{expected}\n", done.stderr


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert [threads_for_each(n) for n in (1, 2, 3, 8)] == [7, 3, 2, 1]
