"""`--typecheck`: annotated shapes and types are checked at every call."""

import functools
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf

PACKAGES = ("threestudio", "threestudio_jointdreamer")


def install() -> None:
    """Checks the calls of all functions of modules that are imported from now on.

    jaxtyping ties the shapes of one call together and typeguard looks into unions, tuples and the
    like. (typeguard's own decorator parses annotations as Python, which shapes are not.)

    Raises:
        ValueError: if typeguard 4 is not installed.
    """
    if importlib.util.find_spec("typeguard") is None:
        raise ValueError("--typecheck needs typeguard: pip install 'typeguard>=4'.")
    from jaxtyping import install_import_hook

    install_import_hook(list(PACKAGES), f"{__name__}.checked")


def checked(function: Callable) -> Callable:
    """The function, with arguments and result checked against its annotations.

    Raises (when it is called):
        typeguard.TypeCheckError: if one does not fit.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            parameter = signature.parameters[name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                values = value
            elif parameter.kind is parameter.VAR_KEYWORD:
                values = value.values()
            else:
                values = [value]
            for one in values:
                _check(name, one, parameter.annotation)
        result = function(*args, **kwargs)
        _check("the result", result, signature.return_annotation)
        return result

    return wrapper


def _check(name: str, value: Any, annotation: Any) -> None:
    from typeguard import ForwardRefPolicy, TypeCheckError, check_type

    # a config's lists and dicts are OmegaConf's own until a dataclass has taken them in
    if annotation is inspect.Signature.empty or OmegaConf.is_config(value):
        return
    try:
        check_type(value, annotation, forward_ref_policy=ForwardRefPolicy.IGNORE)
    except TypeCheckError as error:
        raise TypeCheckError(f"{name}: {error}") from None
