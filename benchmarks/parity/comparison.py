"""Compares a prior of ours with its reference: keys, outputs, gradients; and makes fixtures."""

import gc
import importlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from benchmarks.parity.seeded import digest_errors, fill, fill_module, noise

MODULES = ("mvdream", "imagedream", "mv_adapter", "wonder3d", "zero123", "dino")
FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "parity" / "fixtures"
SEED = 0
TARGETS = {"reduced": 1e-6, "full": 1e-5}  # relative errors in float64


def cases(modules: Iterable[str] = MODULES) -> dict[str, ModuleType]:
    """The module of each case, by the case's name."""
    found = {}
    for name in modules:
        module = importlib.import_module(f"benchmarks.parity.{name}")
        found |= dict.fromkeys(module.CASES, module)
    return found


def run(run_model: Callable, model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's `output`, and the `gradient` of (output · probe).sum() in `sample`."""
    sample = inputs["sample"].clone().requires_grad_()
    output = run_model(model, inputs | {"sample": sample})
    probe = noise("probe", output.shape, SEED)
    (gradient,) = torch.autograd.grad((output * probe).sum(), sample)
    return {"output": output.detach(), "gradient": gradient}


def run_reference(module: ModuleType, root: str, case: str, size: str) -> tuple[dict, dict]:
    """The reference's parameters by its own names, filled from the seed, and its results."""
    model = module.build_reference(root, case, size).eval()
    state_dict = fill_module(model, SEED)
    return state_dict, run(module.run_reference, model, module.inputs(case, size))


def run_ours(module: ModuleType, state_dict: dict, case: str, size: str) -> dict[str, Tensor]:
    """The results of our model, filled through our converter."""
    model = module.build_ours(state_dict, case, size).double().eval()
    state_dict.clear()  # at full width two copies do not fit a small machine
    gc.collect()
    return run(module.run_ours, model, module.inputs(case, size))


def compare_with_fixture(module: ModuleType, case: str) -> dict[str, float]:
    """Errors of our output and gradient at reduced width against the reference's digests."""
    fixture = json.loads((FIXTURES / f"{case}.json").read_text())
    ours = run_ours(module, fill(fixture["shapes"], fixture["seed"]), case, "reduced")
    return digest_errors(ours, fixture)
