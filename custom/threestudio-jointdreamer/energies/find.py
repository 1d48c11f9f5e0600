"""Finds an energy by its registered name."""

import threestudio

from .base import Energy


def find_energy(energy_type: str, key: str = "energy_type") -> type[Energy]:
    """The registered class, ours or a user's.

    Raises:
        ValueError: nothing of that name is registered; names `key` and the known energies.
    """
    try:
        return threestudio.find(energy_type)
    except (KeyError, ValueError) as error:
        known = sorted(name for name in threestudio.__modules__ if name.endswith("-energy"))
        raise ValueError(
            f"{key}={energy_type!r} is not registered: use one of {', '.join(known)}, "
            "or import the module that registers your own."
        ) from error
