"""Annotations that are checked at every call."""

from collections.abc import Callable

import pytest
import torch
from jaxtyping import Float, jaxtyped
from omegaconf import OmegaConf
from torch import Tensor
from typeguard import TypeCheckError

from jointdreamer.host.typecheck import checked


@jaxtyped(typechecker=checked)
def join(
    x: Float[Tensor, "*N D"],
    *more: Float[Tensor, "*N D"],
    scale: float | None = None,
    **options: str,
) -> Float[Tensor, "*N D"]:
    return x if scale is None else (x * scale).to(torch.float64 if "half" in options else x.dtype)


def test_what_fits_passes():
    x = torch.ones(2, 3)
    assert join(x, x, x, scale=2.0, mode="full").tolist() == [[2.0] * 3] * 2


@pytest.mark.parametrize(
    "call",
    [
        lambda x: join(x.long()),
        lambda x: join(x, torch.ones(2, 4)),
        lambda x: join(x, scale="2"),
        lambda x: join(x, mode=3),
        lambda x: join("x"),
    ],
)
def test_what_does_not_fit_is_refused(call):
    with pytest.raises((TypeError, TypeCheckError)):
        call(torch.ones(2, 3))


def test_results_are_checked_too():
    @jaxtyped(typechecker=checked)
    def broken(x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 1"]:
        return x

    with pytest.raises((TypeError, TypeCheckError)):
        broken(torch.ones(2, 3))


def test_configs_stand_for_the_lists_they_become():
    @checked
    def takes(span: tuple[float, float], call: Callable) -> None:
        return None

    assert takes(OmegaConf.create([0.0, 1.0]), print) is None
    with pytest.raises(TypeCheckError, match="span: list is not a tuple"):
        takes([0.0, 1.0], print)
