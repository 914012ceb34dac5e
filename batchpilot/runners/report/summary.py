"""From result rows, one a run, to summary rows: one per scenario and strategy, and one per strategy over all scenarios.

What is averaged how: goodput by the interquartile mean over runs, everything else by the mean over seeds and then over
scenarios, so that each scenario weighs the same. A percentile is averaged as the figure of its run. A run without a
figure (NaN: no request got a first token, the size never settled) cannot enter a mean; the column is then named in
`partly_undefined`, because a mean over the better runs flatters.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from batchpilot.core.files import write_atomic
from batchpilot.runners.report.profiles import gap_closed
from batchpilot.runners.report.statistics import (
    Comparison,
    Estimate,
    estimate,
    interquartile_mean,
    probability_of_improvement,
    ratio_to_reference,
)

Row = Mapping[str, Any]
"""A result or summary row by column name."""

OVERALL = "(overall)"
"""Stands where a scenario's name would, in the rows over all scenarios; no scenario can be called so."""

REFERENCES = ("static-8", "static-default", "static-suite", "static-best", "clairvoyant")
"""What every strategy is stated against."""

BEST_STATIC_SIZE = "best static size"
"""Not a tuner: whichever of static-8, static-16, ... had the highest throughput in the run."""

GAP = ("static-best", "clairvoyant")
"""The references between which a strategy's share of the possible gain is measured."""

MEANS = (
    "requests",
    "throughput_tokens_per_s",
    "throughput_max_tokens_per_s",
    "requests_per_s",
    "efficiency",
    *(f"{latency}_p{q}_ms" for latency in ("ttft", "tpot", "e2e") for q in (50, 95, 99)),
    "refusal_p50_ms",
    "refusal_p95_ms",
    "slo_attainment",
    "utilisation",
    "utilisation_peak",
    "bandwidth_utilisation",
    "compute_utilisation",
    "flop_per_byte",
    "memory_utilisation",
    "kv_used_mean",
    "kv_used_peak",
    "joules_per_token",
    "usd_per_million",
    "fairness",
    "success_rate",
    "refused_fraction",
    "failed",
    "preemptions",
    "convergence_s",
    "convergence_decisions",
    "size_stability",
    *(f"refused_q{quartile}" for quartile in (1, 2, 3, 4)),
    "refused_worst_quarter",
    "tuner_overhead",
)
"""Columns averaged by the mean."""

_WHERE = ("family", "promise", "load", "device", "tensor_parallel", "model", "dtype", "latency", "track")
_ORIGIN = ("config_hash", "git_revision", "versions")


def summarise(
    rows: Sequence[Row],
    *,
    references: Iterable[str] = REFERENCES,
    score_reference: str = BEST_STATIC_SIZE,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Summary rows: those over all scenarios first, then scenario by scenario; the best goodput first within each.

    Columns: where and who (`scenario`, `family`, `device`, `model`, `track`, `tuner`, `is_reference`), `runs`,
    `goodput_fraction` with `_low` and `_high`, `goodput_tokens_per_s`, the columns of `MEANS`, `disciplines`, `limits`
    (those that the runs ended with, where all did with the same), `converged_fraction`, `partly_undefined`; for each
    reference R that ran `ratio_R` with `_low` and `_high`, `ratio_R_left_out` (runs without a ratio) and
    `improves_on_R` (share of runs that beat it) with `_low` and `_high`; `gap_closed` with `_low` and `_high` where
    both references of `GAP` ran; `spec_score`, `spec_score_reference`, and the origin.

    Args:
        rows: result rows of one track.
        references: strategies that are yardsticks; those without rows are skipped.
        score_reference: whose throughput the score's gain is measured against, by default the best fixed size of the
            same run (SPEC 1); without rows the score is NaN.
        seed: of the bootstrap.

    Raises:
        ValueError: two rows of one (scenario, tuner, seed).
    """
    tuners = list(dict.fromkeys(row["tuner"] for row in rows))
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    present = [name for name in references if name in tuners]
    scores = _scores(rows, score_reference)
    summary: list[dict[str, Any]] = []
    by_tuner = {name: [row for row in rows if row["tuner"] == name] for name in tuners}
    gaps = {name: gap_closed(rows, name, *GAP, seed=seed) for name in tuners if set(GAP) <= {*present}}
    compared = {name: {ref: _compared(rows, name, ref, seed) for ref in present} for name in tuners}
    for scope in (OVERALL, *scenarios):
        block = []
        for name in tuners:
            runs = [row for row in by_tuner[name] if scope in (OVERALL, row["scenario"])]
            if not runs:
                continue
            who = {"tuner": name, "is_reference": name in present, "runs": len(runs)}
            block.append(
                {"scenario": scope, **{column: _common(runs, column) for column in _WHERE}, **who}
                | _averages(runs, seed)
                | _ratios(compared[name], scope)
                | (_estimated("gap_closed", _at(scope, gaps[name])) if name in gaps else {})
                | {"spec_score": _mean([(row["scenario"], scores[_run(row)]) for row in runs])}
                | {"spec_score_reference": score_reference}
                | {column: _common(runs, column) for column in _ORIGIN}
            )
        summary += sorted(block, key=lambda row: -np.nan_to_num(row["goodput_fraction"], nan=-1.0))
    return summary


def summarise_families(rows: Sequence[Row], *, seed: int = 0) -> list[dict[str, Any]]:
    """One summary row per family of scenarios and strategy, as the rows over all scenarios but for one family each.

    Args:
        rows: result rows of one track.
        seed: of the bootstrap.

    Raises:
        ValueError: two rows of one (scenario, tuner, seed).
    """
    found: list[dict[str, Any]] = []
    for family in dict.fromkeys(row["family"] for row in rows):
        summary = summarise([row for row in rows if row["family"] == family], seed=seed)
        found += [row for row in summary if row["scenario"] == OVERALL]
    return found


def spec_score(gain_percent: float, utilisation: float, success_rate: float, convergence_s: float) -> float:
    """The source documents' overall score, 0-100.

    `min(gain_percent, 40) + 30 * utilisation + 20 * success_rate` + 10 if converged in less than 60 s, 5 if in less
    than 120 s. As the formula stands, a loss of throughput takes points away; the sum is held to 0-100. A share that is
    NaN, because no request ended, and a convergence that is NaN, because the size never settled, earn nothing.

    Args:
        gain_percent: throughput gain over a named reference, in percent; NaN without that reference.
        utilisation: 0-1.
        success_rate: 0-1.
        convergence_s: seconds until the batch size settled.

    Returns:
        The score; NaN where the gain is.

    Source: SPEC 1.
    """
    settled = 10.0 if convergence_s < 60 else 5.0 if convergence_s < 120 else 0.0
    shares = 30 * (0.0 if math.isnan(utilisation) else utilisation)
    shares += 20 * (0.0 if math.isnan(success_rate) else success_rate)
    return (
        min(max(min(gain_percent, 40.0) + shares + settled, 0.0), 100.0) if gain_percent == gain_percent else math.nan
    )


def write_csv(path: str | Path, rows: Sequence[Row]) -> Path:
    """Write rows as CSV that readers see whole or not at all; a float reads back as the same float.

    Columns stand in order of first appearance; what a row lacks is left empty, NaN is written "nan".

    Args:
        path: where.
        rows: rows of plain values; without any the file is empty.

    Raises:
        OSError: the file cannot be written; an old one is untouched.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    if columns:
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return write_atomic(path, text.getvalue())


def _compared(rows: Sequence[Row], tuner: str, reference: str, seed: int) -> tuple[Comparison, Comparison]:
    ratio = ratio_to_reference(rows, tuner, reference, seed=seed)
    return ratio, probability_of_improvement(rows, tuner, reference, seed=seed)


def _ratios(compared: Mapping[str, tuple[Comparison, Comparison]], scope: str) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for reference, (ratio, improvement) in compared.items():
        found = _at(scope, ratio)
        columns |= _estimated(f"ratio_{reference}", found)
        columns[f"ratio_{reference}_left_out"] = found.left_out
        columns |= _estimated(f"improves_on_{reference}", _at(scope, improvement))
    return columns


def _estimated(column: str, found: Estimate) -> dict[str, float]:
    return {column: found.value, f"{column}_low": found.low, f"{column}_high": found.high}


def _at(scope: str, comparison: Comparison) -> Estimate:
    if scope == OVERALL:
        return comparison.overall
    return comparison.per_scenario.get(scope, Estimate(math.nan))


def _averages(runs: Sequence[Row], seed: int) -> dict[str, Any]:
    goodput = estimate(_strata(runs, "goodput_fraction"), seed=seed)
    figures: dict[str, Any] = {
        "goodput_fraction": goodput.value,
        "goodput_fraction_low": goodput.low,
        "goodput_fraction_high": goodput.high,
        "goodput_tokens_per_s": float(interquartile_mean([row["goodput_tokens_per_s"] for row in runs])),
    }
    figures |= {column: _mean([(row["scenario"], row.get(column, math.nan)) for row in runs]) for column in MEANS}
    missing = {column: sum(math.isnan(row.get(column, math.nan)) for row in runs) for column in MEANS}
    figures["disciplines"] = " ".join(dict.fromkeys(" ".join(row.get("disciplines", "") for row in runs).split()))
    figures["limits"] = _common(runs, "limits")
    figures["converged_fraction"] = 1 - missing["convergence_s"] / len(runs)
    figures["partly_undefined"] = " ".join(column for column, count in missing.items() if 0 < count < len(runs))
    return figures


def _strata(runs: Sequence[Row], column: str) -> list[list[float]]:
    strata: dict[str, list[float]] = {}
    for row in sorted(runs, key=lambda row: row["seed"]):
        strata.setdefault(row["scenario"], []).append(float(row[column]))
    return [strata[scenario] for scenario in sorted(strata)]


def _mean(values: Iterable[tuple[str, float]]) -> float:
    """Mean over scenarios of the means over seeds, of what is defined; NaN when nothing is."""
    by_scenario: dict[str, list[float]] = {}
    for scenario, value in values:
        if not math.isnan(value):
            by_scenario.setdefault(scenario, []).append(float(value))
    means = [math.fsum(found) / len(found) for found in by_scenario.values()]
    return math.fsum(means) / len(means) if means else math.nan


def is_static_size(tuner: str) -> bool:
    """Whether a tuner is a fixed batch size, static-8 or the like, over the best of which gains are counted.

    Args:
        tuner: its name.
    """
    return re.fullmatch(r"static-\d+", tuner) is not None


def _scores(rows: Sequence[Row], reference: str) -> dict[tuple[str, int, str], float]:
    theirs: dict[tuple[str, int], float] = {}
    for row in rows:
        if is_static_size(row["tuner"]) if reference == BEST_STATIC_SIZE else row["tuner"] == reference:
            place = _run(row)[:2]
            theirs[place] = max(row["throughput_tokens_per_s"], theirs.get(place, 0.0))
    return {
        _run(row): spec_score(
            _gain_percent(row["throughput_tokens_per_s"], theirs.get(_run(row)[:2], math.nan)),
            row["utilisation"],
            row["success_rate"],
            row["convergence_s"],
        )
        for row in rows
    }


def _gain_percent(ours: float, theirs: float) -> float:
    if theirs == 0:
        return math.inf if ours > 0 else 0.0
    return 100 * (ours / theirs - 1)


def _run(row: Row) -> tuple[str, int, str]:
    return row["scenario"], row["seed"], row["tuner"]


def _common(runs: Sequence[Row], column: str) -> Any:
    """The value that all runs share; "mixed" where they differ, "" where none has it."""
    values = {row.get(column, "") for row in runs}
    return values.pop() if len(values) == 1 else "mixed"
