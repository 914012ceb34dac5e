"""From rows of a fleet leaderboard to its summary and tables: interquartile means with 95 % intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from batchpilot.envs.fleet.rewards import COST_WEIGHT
from batchpilot.runners.fleet.strategies import REFERENCES, parse
from batchpilot.runners.report.grids import Cell, Grid, number, percent
from batchpilot.runners.report.statistics import estimate, ratio_to_reference
from batchpilot.runners.report.summary import OVERALL, Row

ESTIMATED = ("net_value", "goodput_fraction", "usd_per_million_tokens", "replica_hours", "ttft_p99_ms")
"""Columns with an interquartile mean and an interval."""

MEANS = (
    "slo_attainment",
    "ttft_p50_ms",
    "tpot_p95_ms",
    "refused_fraction",
    "failed",
    "retried",
    "replicas_mean",
    "usd",
    "joules_per_token",
    "prefix_hit_rate",
)
"""Columns averaged by the mean, scenarios weighing alike."""


def summarise_fleets(rows: Sequence[Row], *, seed: int = 0) -> list[dict[str, Any]]:
    """Summary rows: those over all scenarios first, then scenario by scenario; the best net value first within each.

    Columns: `scenario`, `tuner`, `is_reference`, `runs`; `ESTIMATED` with `_low` and `_high`; `MEANS`; for each
    reference R that ran, `cost_ratio_R`: dollars for a million good tokens over R's on the same requests.

    Args:
        rows: result rows.
        seed: of the bootstrap.

    Raises:
        ValueError: two rows of one (scenario, tuner, seed).
    """
    tuners = list(dict.fromkeys(row["tuner"] for row in rows))
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    present = [name for name in REFERENCES if name in tuners]
    ratios = {
        (name, reference): ratio_to_reference(rows, name, reference, column="usd_per_million_tokens", seed=seed)
        for name in tuners
        for reference in present
    }
    summary: list[dict[str, Any]] = []
    for scope in (OVERALL, *scenarios):
        block = []
        for name in tuners:
            strata = [
                [row for row in rows if row["tuner"] == name and row["scenario"] == scenario]
                for scenario in scenarios
                if scope in (OVERALL, scenario)
            ]
            runs = [row for stratum in strata for row in stratum]
            if not runs:
                continue
            found: dict[str, Any] = {
                "scenario": scope,
                "tuner": name,
                "is_reference": parse(name).is_reference,
                "runs": len(runs),
            }
            for column in ESTIMATED:
                one = estimate([[float(row[column]) for row in stratum] for stratum in strata], seed=seed)
                found |= {column: one.value, f"{column}_low": one.low, f"{column}_high": one.high}
            for column in MEANS:
                means = [_mean([float(row[column]) for row in stratum]) for stratum in strata]
                found[column] = _mean(means)
            for reference in present:
                compared = ratios[name, reference]
                at = compared.overall if scope == OVERALL else compared.per_scenario.get(scope)
                found[f"cost_ratio_{reference}"] = math.nan if at is None else at.value
            block.append(found)
        summary += sorted(block, key=lambda row: -row["net_value"])
    return summary


def fleet_grid(summary: Sequence[Row], scenario: str = OVERALL) -> Grid:
    """Who keeps most at what cost, the best net value first.

    Args:
        summary: summary rows.
        scenario: which one's; all of them together by default.
    """
    here = [row for row in summary if row["scenario"] == scenario]
    best = next((row["tuner"] for row in here if not row["is_reference"]), None)
    lines = []
    for row in here:
        texts = [
            row["tuner"],
            _interval(row, "net_value", 3),
            _interval(row, "goodput_fraction", 3),
            _interval(row, "usd_per_million_tokens", 2),
            _interval(row, "replica_hours", 2),
            _interval(row, "ttft_p99_ms", 0),
            percent(row["refused_fraction"]),
        ]
        lines.append(tuple(Cell(text, row["tuner"] == best, bool(row["is_reference"])) for text in texts))
    columns = (
        "Strategy",
        "Net value",
        "Goodput share",
        "$ a million\ngood tokens",
        "Replica hours\na run",
        "TTFT p99 ms",
        "refused",
    )
    several = any(row["runs"] > 1 for row in here)
    caption = (
        "Interquartile means" + (" [95 % interval]" if several else "; one run: no interval") + ". Net value: share of "
        f"the offered tokens served within SLO, less {COST_WEIGHT:g} of what the replicas paid for can generate. "
        f"{' and '.join(REFERENCES)} know the future; the first is the best number of replicas that never changes."
    )
    where = "over all scenarios" if scenario == OVERALL else scenario
    return Grid(f"Who keeps a fleet's promises, at what cost? {where}", columns, tuple(lines), caption)


def places_grid(summary: Sequence[Row]) -> Grid:
    """Net value of every strategy in every scenario.

    Args:
        summary: summary rows.
    """
    names = [row["tuner"] for row in summary if row["scenario"] == OVERALL]
    scenarios = list(dict.fromkeys(row["scenario"] for row in summary if row["scenario"] != OVERALL))
    found = {(row["scenario"], row["tuner"]): row for row in summary}
    best = {
        scenario: max(
            (found[scenario, name]["net_value"] for name in names if not found[scenario, name]["is_reference"]),
            default=math.nan,
        )
        for scenario in scenarios
    }
    lines = []
    for name in names:
        cells = [Cell(name, reference=bool(found[OVERALL, name]["is_reference"]))]
        for scenario in scenarios:
            row = found[scenario, name]
            cells.append(
                Cell(number(row["net_value"], 3), row["net_value"] == best[scenario], bool(row["is_reference"]))
            )
        lines.append(tuple(cells))
    short = tuple(scenario.removeprefix("fleet-") for scenario in scenarios)
    return Grid("Where? Net value by scenario", ("Strategy", *short), tuple(lines))


def fleet_verdict(summary: Sequence[Row]) -> str:
    """The best strategy, how far hindsight is away, and what doing nothing would give.

    Args:
        summary: summary rows.
    """
    overall = [row for row in summary if row["scenario"] == OVERALL]
    ranked = [row for row in overall if not row["is_reference"]]
    if not ranked:
        return "Only references ran."
    best = ranked[0]
    told = (
        f"{best['tuner']} is worth most: {best['goodput_fraction']:.1%} of the tokens within their promise for "
        f"${best['usd_per_million_tokens']:.2f} a million, net value {best['net_value']:.3f}"
    )
    ahead = [f"{row['tuner']} {row['net_value']:.3f}" for row in overall if row["is_reference"]]
    return told + (f"; in hindsight {', '.join(ahead)}." if ahead else ".")


def _interval(row: Row, column: str, digits: int) -> str:
    text = number(row[column], digits)
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    return text if math.isnan(low) else f"{text} [{number(low, digits)}, {number(high, digits)}]"


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
