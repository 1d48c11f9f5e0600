"""Runs all components in each host, a process a host, and compares their tensors."""

import os
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.hosts import seeded
from benchmarks.hosts.compare import Row, compare, read
from benchmarks.hosts.session import ROOT, choose_host, session
from benchmarks.measure import device_name

CHECKOUT = "THREESTUDIO_ROOT"
CORES = 4  # that a process of a host is worth


def dump(path: Path, device: str, packages: str, only: list[str] | None = None) -> dict:
    """Writes `{"about": ..., "rows": {"component/case/name": tensor}, "failures": {...}}`.

    A case that fails leaves a traceback among the failures and does not stop the others.

    Args:
        only: names of COMPONENTS; by default all that run on the device.
    """
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    about = choose_host(packages) | {"device": device, "gpu": device_name()}
    from threestudio_jointdreamer.files import replacing

    from benchmarks.hosts.systems import COMPONENTS, NEED_CUDA

    rows: dict[str, torch.Tensor] = {}
    failures: dict[str, str] = {}
    for component in only or COMPONENTS:
        if device == "cpu" and component in NEED_CUDA:
            continue
        start = time.perf_counter()
        with session(device) as now:
            for case, values in COMPONENTS[component](now).items():
                seeded.seed(0)
                try:
                    for name, tensor in values:
                        rows[f"{component}/{case}/{name}"] = tensor.detach().float().cpu().clone()
                except Exception:
                    failures[f"{component}/{case}"] = traceback.format_exc()
                    traceback.print_exc()
        print(f"{about['host']}: {component} took {time.perf_counter() - start:.1f} s", flush=True)
    with replacing(path) as new:
        torch.save({"about": about, "rows": rows, "failures": failures}, new)
    return about


def dump_and_compare(devices: list[str], folder: Path | None = None) -> list[Row]:
    """Threestudio against the standalone host with the same compiled packages, and without.

    Hosts run at the same time where there are CORES for each.

    Args:
        folder: where the dumps stay; by default they do not.

    Raises:
        ValueError: THREESTUDIO_ROOT is not set.
        RuntimeError: a process failed; its log's end is in the message.
    """
    check_checkout()
    # on a CPU there is nothing compiled that a host could use
    kinds = {"cuda": ("compiled", "pytorch"), "cpu": ("pytorch",)}
    ours = [(device, packages, False) for device in devices for packages in kinds[device]]
    theirs = [(device, kinds[device][0], True) for device in devices]
    with tempfile.TemporaryDirectory() as temporary:

        def make(device: str, packages: str, threestudio: bool) -> Path:
            host = "threestudio" if threestudio else "standalone"
            path = (folder or Path(temporary)).absolute() / f"{host}-{packages}-{device}.pt"
            command = ["-m", "benchmarks.hosts", "dump", "--out", str(path)]
            command += ["--device", device, "--packages", packages]
            run_in_host(threestudio, command, path.stem)
            return path

        with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // CORES)) as pool:
            paths = pool.map(lambda one: make(*one), [*theirs, *ours])
            dumps = dict(zip([*theirs, *ours], map(read, paths), strict=True))
    pairs = [(dumps[one[0], kinds[one[0]][0], True], dumps[one]) for one in ours]
    return [row for pair in pairs for row in compare(*pair)]


def check_checkout() -> None:
    if not os.environ.get(CHECKOUT):
        raise ValueError(f"{CHECKOUT} is not set: it names a checkout of threestudio 0.2.3.")


def run_in_host(threestudio: bool, arguments: list[str], name: str) -> float:
    """Runs Python in the repository's root, with THREESTUDIO_ROOT or without; returns seconds.

    Raises:
        RuntimeError: it failed; `name` and its log's end are in the message.
    """
    environment = {key: os.environ[key] for key in os.environ if threestudio or key != CHECKOUT}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{name} failed; its log ends:\n{done.stdout[-6000:]}")
    print(f"{name}: {seconds:.0f} s", flush=True)
    return seconds
