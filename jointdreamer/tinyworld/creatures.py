"""Procedural creatures: a few attributes become coloured ellipsoids with a face on +x only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.14, 0.12),
    "orange": (0.96, 0.52, 0.10),
    "yellow": (0.97, 0.84, 0.15),
    "green": (0.20, 0.66, 0.24),
    "blue": (0.15, 0.36, 0.86),
    "purple": (0.52, 0.22, 0.72),
    "pink": (0.97, 0.55, 0.70),
    "brown": (0.48, 0.29, 0.15),
    "gray": (0.50, 0.50, 0.53),
    "white": (0.96, 0.96, 0.94),
}
COLOR_NAMES = tuple(COLORS)
SPECIES = ("bear", "rabbit", "cat", "mouse", "elephant", "dog", "frog", "duck")


class _Rows:
    """A dataclass of tensors that have a row for each of N things."""

    def __getitem__(self, index):
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def to(self, device):
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class Creatures(_Rows):
    """N creatures as attribute tensors."""

    species: Int[Tensor, " N"]  # index into `SPECIES`
    color: Int[Tensor, " N"]  # of the body, index into `COLOR_NAMES`
    hat: Int[Tensor, " N"]  # its colour, or -1 for none
    backpack: Int[Tensor, " N"]  # likewise
    belly: Bool[Tensor, " N"]  # whether it has a white patch
    stretch: Float[Tensor, "N 4"]  # N(0, 1) numbers for head, body, ears, accessories

    def rows(self) -> list[tuple[int, int, int, int, bool]]:
        """Species, colour, hat, backpack and belly of each."""
        columns = (self.species, self.color, self.hat, self.backpack, self.belly)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def without_accessories(self) -> "Creatures":
        """The same creatures with hats and backpacks taken off."""
        none = torch.full_like(self.hat, -1)
        return replace(self, hat=none, backpack=none)


def sample_creatures(
    n: int,
    generator: torch.Generator,
    p_hat: float = 0.5,
    p_backpack: float = 0.5,
    species: Sequence[str] = SPECIES,
) -> Creatures:
    """Draws `n` creatures of some species on the generator's device; none has a hat of its colour.

    Raises:
        ValueError: there is no such species.
    """
    if unknown := [name for name in species if name not in SPECIES]:
        raise ValueError(f"species {unknown[0]!r} is unknown: use some of {', '.join(SPECIES)}.")
    device = generator.device

    def integers(high: int) -> Tensor:
        return torch.randint(high, (n,), generator=generator, device=device)

    def chance(p: float) -> Tensor:
        return torch.rand(n, generator=generator, device=device) < p

    color = integers(len(COLORS))
    kinds = torch.tensor([SPECIES.index(name) for name in species], device=device)

    def other_color() -> Tensor:
        return (color + 1 + integers(len(COLORS) - 1)) % len(COLORS)

    return Creatures(
        species=kinds[integers(len(species))],
        color=color,
        hat=torch.where(chance(p_hat), other_color(), -1),
        backpack=torch.where(chance(p_backpack), other_color(), -1),
        belly=chance(0.25),
        stretch=torch.randn(n, 4, generator=generator, device=device).clamp(-2, 2),
    )


@dataclass(frozen=True)
class Ellipsoids(_Rows):
    """K ellipsoids for each of N objects, in world units, z up."""

    center: Float[Tensor, "N K 3"]
    inverse: Float[Tensor, "N K 3 3"]  # from a world offset to the unit sphere's frame
    color: Float[Tensor, "N K 3"]  # in [0, 1]
    present: Bool[Tensor, "N K"]  # whether the slot is filled

    def join(self, other: "Ellipsoids") -> "Ellipsoids":
        """The slots of both, object by object."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Ellipsoids(*(torch.cat(pair, dim=1) for pair in pairs))


_FIXED_PAINTS = {
    "white": (0.98, 0.98, 0.97),
    "black": (0.05, 0.05, 0.06),
    "pink": COLORS["pink"],
    "beak": (0.98, 0.60, 0.08),
}
_PAINTS = ("body", "dark", "light", "hat", "backpack", "backpack_dark", *_FIXED_PAINTS)
_ALWAYS, _WITH_HAT, _WITH_BACKPACK, _WITH_BELLY, _NEVER = range(5)


@dataclass(frozen=True)
class _Part:
    """One ellipsoid: tilts in degrees (a mirrored part tilts the other way about x), one of
    `_PAINTS`, which stretch number scales it (4 for none), and when it is there.
    """

    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    paint: str = "body"
    tilt_x: float = 0.0
    tilt_y: float = 0.0
    stretch: int = 4
    shown: int = _ALWAYS


_EVERYBODY = {
    "body": _Part((-0.02, 0.0, -0.34), (0.37, 0.38, 0.36), stretch=1),
    "head": _Part((0.06, 0.0, 0.22), (0.36, 0.38, 0.34), stretch=0),
    "foot": _Part((0.20, 0.20, -0.66), (0.19, 0.13, 0.10), "dark"),
    "arm": _Part((0.16, 0.36, -0.24), (0.12, 0.10, 0.21), tilt_x=-20.0),
    "eye": _Part((0.385, 0.15, 0.30), (0.06, 0.105, 0.115), "white"),
    "pupil": _Part((0.44, 0.14, 0.30), (0.035, 0.06, 0.07), "black"),
}
_PAIRED = ("foot", "arm", "eye", "pupil", "ear", "tip")
_SPECIES_PARTS = {
    "bear": {
        "ear": _Part((0.0, 0.27, 0.49), (0.09, 0.14, 0.14), stretch=2),
        "snout": _Part((0.40, 0.0, 0.11), (0.13, 0.16, 0.11), "light"),
        "nose": _Part((0.52, 0.0, 0.16), (0.04, 0.07, 0.05), "black"),
        "tail": _Part((-0.41, 0.0, -0.42), (0.10, 0.10, 0.10)),
    },
    "rabbit": {
        "ear": _Part((-0.02, 0.17, 0.70), (0.06, 0.10, 0.29), tilt_x=-12.0, stretch=2),
        "tip": _Part((0.03, 0.17, 0.70), (0.03, 0.05, 0.20), "pink", -12.0, stretch=2),
        "snout": _Part((0.40, 0.0, 0.10), (0.09, 0.12, 0.09), "light"),
        "nose": _Part((0.48, 0.0, 0.13), (0.03, 0.05, 0.04), "pink"),
        "tail": _Part((-0.42, 0.0, -0.44), (0.13, 0.13, 0.13), "white"),
    },
    "cat": {
        "ear": _Part((0.02, 0.23, 0.50), (0.07, 0.13, 0.16), tilt_x=-18.0, stretch=2),
        "tip": _Part((0.02, 0.27, 0.62), (0.04, 0.06, 0.12), "body", -18.0, stretch=2),
        "snout": _Part((0.40, 0.0, 0.11), (0.08, 0.13, 0.07), "light"),
        "nose": _Part((0.47, 0.0, 0.15), (0.03, 0.05, 0.035), "pink"),
        "tail": _Part((-0.48, 0.0, -0.22), (0.07, 0.07, 0.34), tilt_y=-25.0),
    },
    "mouse": {
        "ear": _Part((-0.02, 0.36, 0.46), (0.05, 0.22, 0.22), stretch=2),
        "tip": _Part((0.02, 0.36, 0.46), (0.04, 0.15, 0.15), "pink", stretch=2),
        "snout": _Part((0.44, 0.0, 0.12), (0.18, 0.11, 0.09)),
        "nose": _Part((0.61, 0.0, 0.14), (0.05, 0.055, 0.05), "black"),
        "tail": _Part((-0.52, 0.0, -0.42), (0.26, 0.04, 0.04), "pink", tilt_y=25.0),
    },
    "elephant": {
        "ear": _Part((0.0, 0.46, 0.22), (0.05, 0.23, 0.28), stretch=2),
        "snout": _Part((0.46, 0.0, 0.10), (0.13, 0.11, 0.13)),
        "nose": _Part((0.53, 0.0, -0.12), (0.085, 0.08, 0.21), tilt_y=-12.0),
        "tail": _Part((-0.43, 0.0, -0.40), (0.05, 0.05, 0.16), tilt_y=20.0),
    },
    "dog": {
        "ear": _Part((0.03, 0.40, 0.14), (0.11, 0.07, 0.27), "dark", 8.0, stretch=2),
        "snout": _Part((0.44, 0.0, 0.10), (0.19, 0.15, 0.12), "light"),
        "nose": _Part((0.62, 0.0, 0.16), (0.05, 0.07, 0.055), "black"),
        "tail": _Part((-0.46, 0.0, -0.28), (0.06, 0.06, 0.22), tilt_y=-35.0),
    },
    "frog": {
        "ear": _Part((0.14, 0.21, 0.50), (0.15, 0.15, 0.14), stretch=2),
        "eye": _Part((0.24, 0.21, 0.53), (0.07, 0.11, 0.11), "white"),
        "pupil": _Part((0.295, 0.21, 0.53), (0.035, 0.065, 0.07), "black"),
        "snout": _Part((0.37, 0.0, 0.12), (0.07, 0.26, 0.035), "black"),
    },
    "duck": {
        "arm": _Part((-0.04, 0.38, -0.26), (0.22, 0.08, 0.19), "dark", tilt_y=15.0),
        "foot": _Part((0.22, 0.18, -0.68), (0.22, 0.14, 0.06), "beak"),
        "snout": _Part((0.47, 0.0, 0.11), (0.20, 0.18, 0.06), "beak"),
        "tail": _Part((-0.42, 0.0, -0.32), (0.17, 0.14, 0.07), tilt_y=30.0),
    },
}
_ACCESSORIES = {
    "brim": _Part((0.04, 0.0, 0.51), (0.34, 0.34, 0.055), "hat", stretch=3, shown=_WITH_HAT),
    "crown": _Part((0.04, 0.0, 0.66), (0.21, 0.21, 0.25), "hat", stretch=3, shown=_WITH_HAT),
    "pack": _Part(
        (-0.42, 0.0, -0.20), (0.21, 0.27, 0.29), "backpack", stretch=3, shown=_WITH_BACKPACK
    ),
    "pocket": _Part(
        (-0.58, 0.0, -0.28), (0.10, 0.17, 0.13), "backpack_dark", stretch=3, shown=_WITH_BACKPACK
    ),
    "belly": _Part((0.13, 0.0, -0.36), (0.25, 0.27, 0.27), "white", stretch=1, shown=_WITH_BELLY),
}


def _slots(species: str) -> list[tuple[str, _Part]]:
    """All parts of a species, paired ones twice (the second mirrored), in drawing order."""
    slots = []
    for name, part in {**_EVERYBODY, **_SPECIES_PARTS[species], **_ACCESSORIES}.items():
        slots.append((name, part))
        if name in _PAIRED:
            x, y, z = part.center
            slots.append((name, replace(part, center=(x, -y, z), tilt_x=-part.tilt_x)))
    return slots


MAX_PARTS = max(len(_slots(species)) for species in SPECIES)
_EMPTY = ("", _Part((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), shown=_NEVER))
_SLOTS = [(_slots(species) + [_EMPTY] * MAX_PARTS)[:MAX_PARTS] for species in SPECIES]
_OFFSET = (0.0, 0.0, -0.1)  # centres creatures with tall ears or hats in the unit ball


def _table(value: Callable[[_Part], object]) -> Tensor:
    """A number or several of every slot, [S K ...]."""
    return torch.tensor([[value(part) for _, part in slots] for slots in _SLOTS])


_TABLES = {
    "center": _table(lambda part: part.center),
    "radii": _table(lambda part: part.radii),
    "tilt": torch.deg2rad(_table(lambda part: (part.tilt_x, part.tilt_y))),
    "paint": _table(lambda part: _PAINTS.index(part.paint)),
    "stretch": _table(lambda part: part.stretch),
    "shown": _table(lambda part: part.shown),
}


def _tilt_matrices(tilt: Float[Tensor, "N K 2"]) -> Float[Tensor, "N K 3 3"]:
    """Rotation about x, then about y."""
    (sx, sy), (cx, cy) = tilt.sin().unbind(-1), tilt.cos().unbind(-1)
    one, zero = torch.ones_like(sx), torch.zeros_like(sx)
    about_x = torch.stack([one, zero, zero, zero, cx, -sx, zero, sx, cx], -1)
    about_y = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], -1)
    shape = (*tilt.shape[:-1], 3, 3)
    return about_y.view(shape) @ about_x.view(shape)


def build(creatures: Creatures) -> Ellipsoids:
    """Turns attributes into ellipsoids; absent accessories leave their slots empty."""
    device, n = creatures.species.device, len(creatures)
    table = {name: value.to(device)[creatures.species] for name, value in _TABLES.items()}

    scale = torch.cat([1 + 0.05 * creatures.stretch, torch.ones(n, 1, device=device)], dim=1)
    radii = table["radii"] * scale.gather(1, table["stretch"])[..., None]
    inverse = _tilt_matrices(table["tilt"]).transpose(-1, -2) / radii[..., None]

    palette = torch.tensor(list(COLORS.values()), device=device)
    body = palette[creatures.color]
    hat = palette[creatures.hat.clamp_min(0)]
    backpack = palette[creatures.backpack.clamp_min(0)]
    paints = [body, 0.55 * body, 0.45 * body + 0.55, hat, backpack, 0.65 * backpack]
    paints += [torch.tensor(c, device=device).expand(n, 3) for c in _FIXED_PAINTS.values()]
    color = torch.stack(paints, dim=1).gather(1, table["paint"][..., None].expand(-1, -1, 3))

    always = torch.ones_like(creatures.belly)
    shown = [always, creatures.hat >= 0, creatures.backpack >= 0, creatures.belly, ~always]
    present = torch.stack(shown, dim=1).gather(1, table["shown"])
    center = table["center"] + torch.tensor(_OFFSET, device=device)
    return Ellipsoids(center, inverse, color, present)


def slots_named(names: tuple[str, ...]) -> Bool[Tensor, "S K"]:
    """For every species, which of the slots that `build` fills hold the parts of these names."""
    return torch.tensor([[name in names for name, _ in slots] for slots in _SLOTS])
