"""Runs all pieces in one host and writes their tensors to a file."""

import os
import random
import time
import traceback
from pathlib import Path

import torch

from benchmarks.hosts.session import choose_host, session

FORMAT = 1


def dump(path: Path, device: str, packages: str, only: list[str] | None = None) -> dict:
    """Writes `{"about": ..., "rows": {"piece/name": tensor}, "failures": {piece: text}}`.

    A piece that fails leaves a traceback among the failures and does not stop the others.

    Args:
        only: names of PIECES; by default all that run on the device.
    """
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    about = choose_host(packages) | {"device": device, "format": FORMAT}
    if device == "cuda" and torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    from benchmarks.hosts.pieces import NEED_CUDA, PIECES

    rows: dict[str, torch.Tensor] = {}
    failures: dict[str, str] = {}
    for piece in only or PIECES:
        if device == "cpu" and piece in NEED_CUDA:
            continue
        start = time.perf_counter()
        random.seed(0)
        torch.manual_seed(0)
        with session(device) as now:
            try:
                for name, tensor in PIECES[piece](now):
                    rows[f"{piece}/{name}"] = tensor.detach().float().cpu().clone()
            except Exception:
                failures[piece] = traceback.format_exc()
                print(f"{piece} failed:\n{failures[piece]}", flush=True)
        print(f"{about['host']}: {piece} took {time.perf_counter() - start:.1f} s", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save({"about": about, "rows": rows, "failures": failures}, temporary)
    os.replace(temporary, path)
    return about
