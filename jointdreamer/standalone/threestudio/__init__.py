"""The standalone host: the part of threestudio 0.2.3's API that this project's configs name."""

import difflib
import logging
from collections.abc import Callable

from pytorch_lightning.utilities.rank_zero import rank_zero_debug, rank_zero_info, rank_zero_only

__version__ = "0.2.3"  # of the threestudio whose API and numbers this follows

__modules__: dict[str, type] = {}

logger = logging.getLogger("pytorch_lightning")
debug = rank_zero_debug
info = rank_zero_info


@rank_zero_only
def warn(*args, **kwargs) -> None:
    """Logs a warning, once per run and not once per device."""
    logger.warning(*args, **kwargs)


def register(name: str) -> Callable[[type], type]:
    """Class decorator that makes a class available to configs as `name`.

    Raises:
        ValueError: if another class already has this name.
    """

    def decorator(cls: type) -> type:
        if name in __modules__:
            taken = __modules__[name]
            raise ValueError(
                f"'{name}' is already registered by {taken.__module__}.{taken.__qualname__}: "
                f"give {cls.__module__}.{cls.__qualname__} another name."
            )
        __modules__[name] = cls
        return cls

    return decorator


def find(name: str) -> type:
    """The class registered as `name`.

    `"main:mixin"` and `"main:mixin1,mixin2"` make a class on the fly whose bases are the mixins,
    in that order, before `main`: an extension can so change a class without a copy of it.

    Raises:
        ValueError: if a name is not registered; says which names are close.
    """
    main, separator, mixins = name.partition(":")
    if not separator:
        return _look_up(name)
    bases = tuple(_look_up(part) for part in [*mixins.split(","), main])
    return type(f"{main}.{mixins}", bases, {})


def _look_up(name: str) -> type:
    if name in __modules__:
        return __modules__[name]
    close = difflib.get_close_matches(name, __modules__, n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "is its extension loaded?"
    raise ValueError(
        f"'{name}' is not registered: {hint} registered names: {', '.join(sorted(__modules__))}."
    )


from threestudio import data, models, systems  # noqa: E402, F401  (they register themselves)
