"""Two dumps against each other: relative differences, row by row."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.hosts.limits import limit_of

SIGNIFICANT = 1e-3  # of the largest gradient: where the first step of AdamW is compared


@dataclass(frozen=True)
class Row:
    """One tensor of both hosts.

    Attributes:
        packages: what the standalone host ran on: "compiled" or "pytorch".
        largest: max |a - b| / max |b|, b being threestudio's.
        usual: the same without the 1 % of the numbers that are furthest apart.
        limit, usual_limit: what they may be.
        note: why the limit is no smaller, or what is wrong.
    """

    device: str
    packages: str
    component: str
    row: str
    numbers: int
    largest: float
    usual: float
    limit: float
    usual_limit: float
    within: bool
    note: str

    def __str__(self) -> str:
        return (
            f"{self.device}, {self.packages}, {self.component}/{self.row}: "
            f"{self.largest:.1e} (limit {self.limit:.0e}), all but 1 %: {self.usual:.1e} "
            f"(limit {self.usual_limit:.0e}) {self.note}"
        )


def read(path: Path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=True)


def compare(reference: dict, other: dict) -> list[Row]:
    """The rows of both dumps; one that only one of them has is not within its limit."""
    theirs, ours = reference["rows"], other["rows"]
    device, packages = other["about"]["device"], other["about"]["packages"]

    def row(name: str, largest=math.inf, usual=math.inf, numbers: int = 0, problem="") -> Row:
        limit, (component, _, rest) = limit_of(packages, name), name.partition("/")
        within, note = largest <= limit.largest and usual <= limit.usual, problem or limit.reason
        found = numbers, largest, usual, limit.largest, limit.usual, within, note
        return Row(device, packages, component, rest, *found)

    rows = []
    for name in theirs | ours:
        if name not in theirs or name not in ours:
            missing = (other if name in theirs else reference)["about"]["host"]
            rows.append(row(name, problem=f"{missing} has no such row"))
        elif theirs[name].shape != ours[name].shape:
            shapes = [_shape(tensor[name]) for tensor in (ours, theirs)]
            rows.append(row(name, problem="{}, not {}".format(*shapes)))
        else:
            where = _where_significant(name, theirs)
            differences = relative_difference(ours[name], theirs[name], where)
            rows.append(row(name, *differences, theirs[name].numel()))
    for dump in (reference, other):
        for case, text in dump["failures"].items():
            host, error = dump["about"]["host"], text.strip().splitlines()[-1]
            rows.append(row(case, problem=f"{host} failed: {error}"))
    return rows


def relative_difference(
    ours: Tensor, theirs: Tensor, where: Tensor | None = None
) -> tuple[float, float]:
    """max |a - b| / max |b|, of all numbers and of the nearest 99 %.

    Numbers that are not finite count as infinitely far apart unless both are the same.
    """
    if where is not None:
        ours, theirs = ours[where], theirs[where]
    if not theirs.numel():
        return 0.0, 0.0
    apart = (ours.double() - theirs.double()).abs().flatten()
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    apart = torch.where(same.flatten(), 0.0, apart.nan_to_num(float("inf"), float("inf")))
    finite = theirs[theirs.isfinite()].double()
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    scale = scale or 1.0  # both nothing but zeros: an absolute difference
    nearest = apart.kthvalue(max(1, int(0.99 * len(apart)))).values
    return float(apart.max()) / scale, float(nearest) / scale


def _where_significant(name: str, theirs: dict[str, Tensor]) -> Tensor | None:
    gradient = theirs.get(name.replace("/step/", "/gradient/")) if "/step/" in name else None
    return None if gradient is None else gradient.abs() > SIGNIFICANT * gradient.abs().max()


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def for_csv(rows: list[Row]) -> list[dict]:
    """Numbers have three digits."""
    return [
        {k: f"{v:.2e}" if isinstance(v, float) else v for k, v in asdict(row).items()}
        for row in rows
    ]


def summary(rows: list[Row]) -> str:
    """The worst row of each component, a line each, as a Markdown table."""
    lines = [
        "| component | device | standalone host with | rows | largest | all but 1 % | where |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if "16-mixed" not in row.row:
            groups.setdefault((row.component, row.device, row.packages), []).append(row)
    for (component, device, packages), members in sorted(groups.items()):
        worst = max(members, key=lambda row: row.largest)
        usual = max(row.usual for row in members)
        named = {"compiled": "the same compiled packages", "pytorch": "PyTorch alone"}[packages]
        cells = [component, device, named, len(members)]
        cells += [f"{worst.largest:.1e}", f"{usual:.1e}", worst.row]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
