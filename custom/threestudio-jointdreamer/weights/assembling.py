"""Builds a model out of its config and tensors that are already where they belong."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import ModelMixin
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from .state_dicts import some

# names of attention layers in VAEs that were written before diffusers 0.12, as SD 1.5's and 2.1's
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class Misfit(ValueError):
    """A config and tensors that are not of one model."""


def read_config(model_class: type[nn.Module], folder: Path) -> Any:
    """The config in a folder: diffusers' as a dict, transformers' as an object of its class."""
    if issubclass(model_class, PreTrainedModel):
        return model_class.config_class.from_pretrained(folder)
    return model_class.load_config(folder)


def assemble(
    model_class: type[nn.Module], config: Any, tensors: dict[str, Tensor], **arguments: Any
) -> nn.Module:
    """A model whose parameters are `tensors`; no memory is spent on others.

    Args:
        model_class: a diffusers `ModelMixin` or a transformers `PreTrainedModel`, or a subclass.
            A diffusers one may say, as `current_name(name)`, how weights are called today.
        config: as `read_config` gives it, or a dict.
        tensors: on one device, in the dtype of use.
        arguments: further keyword arguments of `model_class`.

    Raises:
        Misfit: says which tensors are missing, unknown or misshapen.
    """
    tensors = {k: v for k, v in tensors.items() if not k.endswith(".position_ids")}
    with _without_reports():
        if issubclass(model_class, PreTrainedModel):
            model, info = _assemble_transformers(model_class, config, tensors, arguments)
        else:
            model, info = _assemble_diffusers(model_class, config, tensors, arguments)
    _check_fit(info)
    return model


def _assemble_diffusers(
    model_class: type[ModelMixin], config: dict, tensors: dict[str, Tensor], arguments: dict
) -> tuple[nn.Module, dict]:
    with _parameters_on_meta():
        model = model_class.from_config(config, **arguments)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    current_name = getattr(model_class, "current_name", str)  # of a weight, for older names
    tensors = {current_name(name): tensor for name, tensor in tensors.items()}
    tensors = _with_new_names(tensors, set(expected))
    info = {
        "missing_keys": expected.keys() - tensors.keys(),
        "unexpected_keys": tensors.keys() - expected.keys(),
        "mismatched_keys": [
            (name, tensor.shape, expected[name])
            for name, tensor in tensors.items()
            if name in expected and tensor.shape != expected[name]
        ],
    }
    info["error_msgs"] = [
        f"{name} of {tensor.dtype} instead of floating point"
        for name, tensor in tensors.items()
        if name in expected and not tensor.is_floating_point()
    ]
    if not any(info.values()):
        model.load_state_dict(tensors, assign=True)
        device = next(iter(tensors.values())).device
        model.to(device)  # buffers that are in no file
    return model, info


def _assemble_transformers(
    model_class: type[PreTrainedModel], config: Any, tensors: dict[str, Tensor], arguments: dict
) -> tuple[nn.Module, dict]:
    if isinstance(config, dict):
        config = model_class.config_class.from_dict(config)
    floating = next((t for t in tensors.values() if t.is_floating_point()), torch.empty(0))
    name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    model, info = model_class.from_pretrained(
        None,
        config=config,
        state_dict=tensors,
        ignore_mismatched_sizes=True,  # reported with every name at once
        output_loading_info=True,
        **{name: floating.dtype},
        **arguments,
    )
    expected = model.state_dict()
    info["mismatched_keys"] = [
        # some releases give the name alone
        (found, tensors[found].shape, expected[found].shape) if isinstance(found, str) else found
        for found in info["mismatched_keys"]
    ]
    return model.to(floating.device), info


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters made in here take no memory and no time to initialise; buffers are real."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None:
            param = nn.Parameter(param.to("meta"), requires_grad=False)
        register(module, name, param)

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def _with_new_names(tensors: dict[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    def renamed(name: str) -> str:
        path, _, kind = name.rpartition(".")
        path, _, layer = path.rpartition(".")
        new = f"{path}.{OLD_ATTENTION.get(layer)}.{kind}"
        return new if name not in expected and new in expected else name

    return {renamed(name): tensor for name, tensor in tensors.items()}


def _check_fit(info: dict) -> None:
    problems = []
    if info["missing_keys"]:
        problems.append(f"missing {some(info['missing_keys'])}")
    if info["unexpected_keys"]:
        problems.append(f"unknown {some(info['unexpected_keys'])}")
    if info["mismatched_keys"]:
        shapes = [
            f"{name} {tuple(found)} instead of {tuple(wanted)}"
            for name, found, wanted in info["mismatched_keys"]
        ]
        problems.append(f"misshapen {some(shapes)}")
    problems += info.get("error_msgs") or []
    if problems:
        raise Misfit(
            f"the weights do not fit config.json: {'; '.join(problems)}. "
            "The two files are not of one model; download both again."
        )


@contextmanager
def _without_reports() -> Iterator[None]:
    """Silences what the libraries say about keys; what matters is checked and raised here."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
