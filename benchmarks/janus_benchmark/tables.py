"""The benchmark's two tables, out of what was measured: as CSV, for the report, for docs."""

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from jointdreamer.evaluation.measure import Evaluation
from jointdreamer.evaluation.report import ReportTable
from jointdreamer.evaluation.rows import MethodRow
from jointdreamer.sweeps.records import Record

BASELINE = "sds"
MAIN = (
    BASELINE,
    "sds-switching",
    "weighted-sum",
    "multiview-only",
    "jsd-multiview",
    "jsd-translation",
    "jsd-classifier",
    "jsd-order",
    "jsd-pose",
    "jsd-sum",
)
ABLATION = {
    "sds-plain": "SDS",
    "jsd-plain": "JSD",
    "jsd-switching": "+ CFG switching",
    "jsd-multiview": "+ Geometry Fading",
}
DIGITS = {  # of columns with numbers that are measured
    "janus_rate": 1,
    "faceless_rate": 1,
    "r_precision": 1,
    "clip_score": 2,
    "relative_time": 2,
    "peak_gib": 2,
    "smoothness": 3,
    "fid": 2,
}
JANUS_COLUMNS = (
    *("janus_rate", "faceless_rate", "r_precision", "clip_score"),
    *("relative_time", "peak_gib", "smoothness"),
)
ABLATION_COLUMNS = ("clip_score", "fid", "janus_rate", "faceless_rate")
INTERVALS = ("janus_rate", "faceless_rate", "r_precision", "clip_score")
NOTE = (
    "In brackets: 95 % intervals, Wilson's of rates, of means by a bootstrap over prompts. Rates "
    "are percentages of assets: Janus, more than one face; faceless, none at all."
)
NOTES = {  # on columns that not every table has
    "relative_time": "relative_time is of a training step, beside SDS's.",
    "smoothness": "smoothness is the scatter of the logged gradient norm about its running median; "
    "less is smoother.",
    "fid": "fid compares all views with true creatures of the prompts; less is better.",
}
HEADINGS = {name: name.replace("_", " ") for name in (*DIGITS, "method", "runs")}


def costs(records: Sequence[Record]) -> dict[str, tuple[float, float]]:
    """The median step of each method's finished runs in ms, and the most memory of them in GiB."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in timing_rows(records):
        found.setdefault(row["method"], []).append((row["ms_per_step"], row["peak_gib"]))
    return {
        name: (statistics.median(ms for ms, _ in rows), max(peak for _, peak in rows))
        for name, rows in found.items()
    }


def timing_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A row for each finished run: its training step, and memory, of the GPU if there is one."""
    return [
        {
            "method": row["method"],
            "seed": row["seed"],
            "ms_per_step": round(1000 / row["steps_per_second"], 2),
            "peak_gib": row["peak_host_gib" if row["peak_gpu_gib"] is None else "peak_gpu_gib"],
            "device": row["device"],
        }
        for row in (record.row for record in records if record.done)
        if row["steps_per_second"]
    ]


def timing_table(records: Sequence[Record]) -> ReportTable:
    """Each method's step beside SDS's, or else the first method's, and the steps of its runs."""
    spent, steps = costs(records), {}
    for row in timing_rows(records):
        steps.setdefault(row["method"], []).append(f"{row['ms_per_step']:.1f}")
    base, _ = spent.get(BASELINE) or next(iter(spent.values()))
    cells = [[name, f"{ms / base:.2f}", ", ".join(steps[name])] for name, (ms, _) in spent.items()]
    note = "ms per step: of each timed run, which had the machine to itself."
    return ReportTable("Time", ["method", HEADINGS["relative_time"], "ms per step"], cells, note)


def janus_rows(
    result: Evaluation,
    spent: Mapping[str, tuple[float, float]],
    failed: Mapping[str, int],
    wanted: Collection[str],
) -> list[dict[str, Any]]:
    """A row for each method of the first table, also for those whose runs all failed."""
    methods = {row.method: row for row in result.methods}
    base, _ = spent.get(BASELINE, (None, None))
    rows = []
    for name in (name for name in MAIN if name in wanted):
        row, (ms, peak) = methods.get(name), spent.get(name, (None, None))
        values = {"relative_time": ms and base and ms / base, "peak_gib": peak}
        values |= {"smoothness": row and row.roughness}
        rows.append(_row(name, row, JANUS_COLUMNS, failed.get(name, 0), **values))
    return rows


def ablation_rows(result: Evaluation, failed: Mapping[str, int]) -> list[dict[str, Any]]:
    """A row for each method of the second table that has runs."""
    methods = {row.method: row for row in result.methods}
    return [
        _row(label, methods[name], ABLATION_COLUMNS, failed.get(name, 0))
        for name, label in ABLATION.items()
        if name in methods
    ]


def _row(
    name: str, row: MethodRow | None, columns: Sequence[str], failed: int, **more: float | None
) -> dict[str, Any]:
    """The columns, then the ends of their intervals; None where nothing was measured."""
    values = (asdict(row) if row else {}) | more
    ends = [f"{key}{end}" for key in columns if key in INTERVALS for end in ("_low", "_high")]
    found: dict[str, Any] = {"method": name, "runs": row.runs if row else 0}
    for key in (*columns, *ends):
        found[key] = None if values.get(key) is None else round(values[key], 4)
    return found | {"failed_runs": failed, "note": f"{failed} not finished." if failed else ""}


def as_table(title: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> ReportTable:
    """Rows for people: intervals in brackets, a dash where there is nothing."""
    names = ("method", "runs", *columns)
    cells = [[_cell(row, name) for name in names] for row in rows]
    notes = [NOTE, *(NOTES[name] for name in columns if name in NOTES)]
    notes += [f"{row['method']}: {row['note']}" for row in rows if row["note"]]
    return ReportTable(title, [HEADINGS[name] for name in names], cells, " ".join(notes))


def _cell(row: dict[str, Any], name: str) -> str:
    value = row[name]
    if value is None:
        return "–"
    if name not in DIGITS:
        return str(value)
    digits = DIGITS[name]
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    interval = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{interval}"


def as_markdown(table: ReportTable) -> str:
    lines = [table.columns, ["---", *["---:"] * (len(table.columns) - 1)], *table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{table.note}\n"
