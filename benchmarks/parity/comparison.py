"""Compares a prior of ours with its reference: keys, outputs, gradients; and makes fixtures."""

import gc
import importlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from threestudio_jointdreamer.files import replacing
from torch import Tensor, nn

from benchmarks.parity.seeded import digest, digest_error, fill, fill_module, noise

MODULES = ("mvdream", "wonder3d", "zero123", "dino")
FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "parity" / "fixtures"
SEED = 0
TARGETS = {"reduced": 1e-6, "full": 1e-5}  # relative errors in float64


@dataclass
class Result:
    """Output and gradient of one implementation."""

    output: Tensor
    gradient: Tensor
    seconds: float


def cases(modules: Iterable[str] = MODULES) -> dict[str, ModuleType]:
    """The module of each case, by the case's name."""
    found = {}
    for name in modules:
        module = importlib.import_module(f"benchmarks.parity.{name}")
        found |= dict.fromkeys(module.CASES, module)
    return found


def run(run_model: Callable, model: nn.Module, inputs: dict[str, Tensor]) -> Result:
    """The model's output, and the gradient of (output · probe).sum() in `sample`."""
    sample = inputs["sample"].clone().requires_grad_()
    start = time.perf_counter()
    output = run_model(model, inputs | {"sample": sample})
    probe = noise("probe", output.shape, SEED)
    (gradient,) = torch.autograd.grad((output * probe).sum(), sample)
    return Result(output.detach(), gradient, time.perf_counter() - start)


def run_reference(module: ModuleType, root: str, case: str, size: str) -> tuple[dict, Result]:
    """The reference's parameters by its own names, filled from the seed, and its result."""
    model = module.build_reference(root, case, size).eval()
    state_dict = fill_module(model, SEED)
    return state_dict, run(module.run_reference, model, module.inputs(case, size))


def run_ours(module: ModuleType, state_dict: dict, case: str, size: str) -> Result:
    """Our model, filled through our converter."""
    model = module.build_ours(state_dict, case, size).double().eval()
    state_dict.clear()  # at full width two copies do not fit a small machine
    gc.collect()
    return run(module.run_ours, model, module.inputs(case, size))


def relative_errors(ours: Result, theirs: Result) -> tuple[float, float]:
    """max |a − b| / max |b| of output and gradient."""
    pairs = (ours.output, theirs.output), (ours.gradient, theirs.gradient)
    return tuple(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def write_fixture(case: str, state_dict: dict[str, Tensor], result: Result, source: str) -> None:
    """What the comparison needs where the reference is not at hand."""
    content = {
        "source": source,
        "seed": SEED,
        "shapes": {name: list(tensor.shape) for name, tensor in state_dict.items()},
        "output": digest(result.output),
        "gradient": digest(result.gradient),
    }
    rows = (f'"{key}": {json.dumps(value)}' for key, value in content.items())
    with replacing(FIXTURES / f"{case}.json") as file:
        file.write_text("{\n" + ",\n".join(rows) + "\n}\n")


def compare_with_fixture(module: ModuleType, case: str) -> tuple[float, float]:
    """Errors of our output and gradient at reduced width against the reference's digests."""
    fixture = json.loads((FIXTURES / f"{case}.json").read_text())
    ours = run_ours(module, fill(fixture["shapes"], fixture["seed"]), case, "reduced")
    return (
        digest_error(digest(ours.output), fixture["output"]),
        digest_error(digest(ours.gradient), fixture["gradient"]),
    )
