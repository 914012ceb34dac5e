"""A comparison of ways to run a fleet: who serves best, and every way in a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import typer

from batchpilot.core.files import json_text
from batchpilot.core.provenance import provenance
from batchpilot.runners.fleet.comparison import Runs, Way
from batchpilot.runners.fleet.strategies import NONE, SPLIT
from batchpilot.runners.options import stdout_console
from batchpilot.runners.report.grids import Cell, Grid, number, percent
from batchpilot.runners.report.statistics import estimate
from batchpilot.runners.report.tables import tables


def show(runs: Runs, stated: dict[str, Any]) -> None:
    """Print what was asked, the verdict and the table.

    Args:
        runs: figures of each way.
        stated: what was asked, in words.
    """
    typer.echo("\n".join(f"{name}: {value}" for name, value in stated.items()) + "\n")
    typer.echo(verdict(runs) + "\n")
    for shown in tables(ways_grid(runs)):
        stdout_console().print(shown)


def show_json(runs: Runs, stated: dict[str, Any]) -> None:
    """Print every run for machines.

    Args:
        runs: figures of each way.
        stated: what was asked, in words.
    """
    told = [{"router": way.rule, "poll_ms": way.age_ms, "scaler": way.scaler, "runs": runs[way]} for way in runs]
    typer.echo(json_text({"ways": told} | stated | provenance(0, stated), indent=2))


def verdict(rows: Runs) -> str:
    """Who serves best, by how much, and whether it matters.

    Args:
        rows: runs by way.
    """
    goodput = {way: estimate([[run["goodput_fraction"] for run in runs]]).value for way, runs in rows.items()}
    best = max(goodput, key=lambda way: (goodput[way], -_mean(rows[way], "ttft_p99_ms")))
    near = [way for way, value in goodput.items() if value > goodput[best] - 0.01]
    p99 = {way: _mean(rows[way], "ttft_p99_ms") for way in rows}
    quickest = min(near, key=lambda way: p99[way] if not math.isnan(p99[way]) else math.inf)
    if len(near) == len(rows) > 1:
        return (
            f"Any of these will do: all {len(rows)} keep within a point of {goodput[best]:.1%} of the tokens. "
            f"Shortest tail: {_way(quickest)}, TTFT p99 {p99[quickest]:,.0f} ms."
        )
    return (
        f"{_way(best)} keeps most: {goodput[best]:.1%} of the tokens within their promise; "
        f"{len(near) - 1} more within a point, the worst {min(goodput.values()):.1%}."
    )


def ways_grid(rows: Runs) -> Grid:
    """Every way in the order of goodput.

    Args:
        rows: runs by way.
    """
    scaled = any(way.scaler not in (NONE, SPLIT) for way in rows)
    cached = any(run["prefix_hit_rate"] > 0 for runs in rows.values() for run in runs)
    lines = []
    for way, runs in rows.items():
        goodput = estimate([[run["goodput_fraction"] for run in runs]])
        interval = f" [{goodput.low:.3f}, {goodput.high:.3f}]" if len(runs) > 1 else ""
        cells = [
            _way(way),
            f"{goodput.value:.3f}{interval}",
            *(number(_mean(runs, f"ttft_p{q}_ms")) for q in (50, 99)),
            number(_mean(runs, "tpot_p95_ms"), 1),
            percent(_mean(runs, "refused_fraction")),
            number(_mean(runs, "fairness"), 3),
            *((number(_mean(runs, "replica_hours"), 2), number(_mean(runs, "usd"), 2)) if scaled else ()),
            number(_mean(runs, "usd_per_million_tokens"), 2),
            number(_mean(runs, "joules_per_token"), 2),
            *(() if not cached else (percent(_mean(runs, "prefix_hit_rate")),)),
        ]
        lines.append((goodput.value, tuple(Cell(text) for text in cells)))
    lines.sort(key=lambda line: -line[0])
    columns = (
        *("Router", "Goodput share\n[95 % interval]", "TTFT\np50 ms", "TTFT\np99 ms", "TPOT\np95 ms", "refused"),
        "fairness\nto users",
        *(("replica\nhours", "cost\n$") if scaled else ()),
        "$ a million\ngood tokens",
        "J a good\ntoken",
        *(("prompt\ntokens found",) if cached else ()),
    )
    caption = "Interquartile mean of goodput, means of the others, over seeds; every way serves the same requests."
    return Grid("Who takes a request?", columns, tuple(cells for _, cells in lines), caption)


def _way(way: Way) -> str:
    rule, age, how = way
    return rule + (f", {age:g} ms old" if age else "") + ("" if how == NONE else f", {how}")


def _mean(runs: Sequence[dict[str, Any]], column: str) -> float:
    known = [run[column] for run in runs if not math.isnan(run[column])]
    return sum(known) / len(known) if known else math.nan
