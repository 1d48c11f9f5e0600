"""Builds a model out of its config and tensors that are already where they belong."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from diffusers import ModelMixin
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..state_dicts import check_names, check_state_dict, empty_model

OLD_NAMES = {  # of layers, and what they are called today
    # in VAEs that were written before diffusers 0.12, as SD 1.5's and 2.1's
    **{"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"},
    # in the first checkpoints of Wonder3D
    **{"attn_joint_twice": "attn_joint_mid", "norm_joint_twice": "norm_joint_mid"},
}


def assemble(
    model_class: type[nn.Module],
    config: Mapping[str, Any],
    tensors: dict[str, Tensor],
    **arguments: Any,
) -> nn.Module:
    """A model whose parameters are `tensors`; no memory is spent on others.

    Args:
        model_class: a diffusers `ModelMixin` or a transformers `PreTrainedModel`, or a subclass.
        config: what config.json says.
        tensors: on one device, in the dtype of use.
        arguments: further keyword arguments of `model_class`.

    Raises:
        ValueError: says which tensors are missing, unknown or misshapen, or what the config has.
    """
    tensors = {k: v for k, v in tensors.items() if not k.endswith(".position_ids")}
    with without_reports():
        if issubclass(model_class, PreTrainedModel):
            return _assemble_transformers(model_class, config, tensors, arguments)
        return _assemble_diffusers(model_class, config, tensors, arguments)


def _assemble_diffusers(
    model_class: type[ModelMixin], config: Mapping, tensors: dict[str, Tensor], arguments: dict
) -> nn.Module:
    model = empty_model(model_class, config, **arguments)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}

    def renamed(name: str) -> str:
        new = ".".join(OLD_NAMES.get(part, part) for part in name.split("."))
        return new if name not in expected and new in expected else name

    tensors = {renamed(name): tensor for name, tensor in tensors.items()}
    check_state_dict(tensors, expected)
    model.load_state_dict(tensors, assign=True)
    if any(buffer.is_meta for buffer in model.buffers()):  # some are in no file: compute them
        model = model_class.from_config(dict(config), **arguments)
        model.load_state_dict(tensors, assign=True)
    return model.to(next(iter(tensors.values())).device)


def _assemble_transformers(
    model_class: type[PreTrainedModel], config: Mapping, tensors: dict[str, Tensor], arguments: dict
) -> nn.Module:
    floating = next((t for t in tensors.values() if t.is_floating_point()), torch.empty(0))
    name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    model, info = model_class.from_pretrained(
        None,
        config=model_class.config_class.from_dict(dict(config)),
        state_dict=tensors,
        ignore_mismatched_sizes=True,  # reported with every name at once
        output_loading_info=True,
        **{name: floating.dtype},
        **arguments,
    )
    expected = model.state_dict()
    mismatched = [
        # some releases give the name alone
        (found, tensors[found].shape, expected[found].shape) if isinstance(found, str) else found
        for found in info["mismatched_keys"]
    ]
    check_names(
        missing=info["missing_keys"],
        surplus=info["unexpected_keys"],
        misshapen=[f"{n} {tuple(a)} instead of {tuple(b)}" for n, a, b in mismatched],
    )
    check_names(misshapen=info.get("error_msgs") or [])
    return model.to(floating.device)


@contextmanager
def without_reports() -> Iterator[None]:
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
