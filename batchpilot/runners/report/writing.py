"""`report.html`: one self-contained file that says who won where, how sure that is, and where the numbers come from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchpilot.core.files import write_atomic
from batchpilot.runners.leaderboard.comparison_grids import family_grid, improvement_grid
from batchpilot.runners.report.grids import (
    HINDSIGHT,
    behaviour_grid,
    number,
    reference_names,
    refusal_grid,
    results_grid,
    runs_grid,
    scenario_grid,
)
from batchpilot.runners.report.over_time import Curves, over_time
from batchpilot.runners.report.page import definitions, element, figure, fold, items, page, table
from batchpilot.runners.report.pareto import pareto_grid
from batchpilot.runners.report.plots import goodput_by_strategy, profiles, ratio_by_scenario, refusals_by_length
from batchpilot.runners.report.summary import OVERALL, Row, summarise_families
from batchpilot.runners.report.verdict import verdict
from batchpilot.runners.stated import stated_grid

_REFERENCES = {
    "static-8": "static-8: a batch size of 8 for ever, the source documents' constant.",
    "static-default": "static-default: what servers ship, batch size 256 and token budget 2048.",
    "static-suite": "static-suite: the one fixed setting that is best on average over the training scenarios: what an "
    "operator could have chosen beforehand.",
    HINDSIGHT: f"{HINDSIGHT}: the best fixed setting for this very scenario and seed, found by trying every setting of "
    "a grid on the same requests. It knows the future; on a stationary load it is nearly optimal, and losing under 1 % "
    "to it is a good result.",
    "clairvoyant": "clairvoyant: a schedule of limits optimised with the future known, requests and noise alike: an "
    "upper reference, found by search from static-best and not proven.",
}


def write_report(
    path: str | Path,
    *,
    title: str,
    rows: Sequence[Row],
    summary: Sequence[Row],
    curves: Curves,
    provenance: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> Path:
    """Write the report of a leaderboard: no script, nothing loaded from outside, every text escaped.

    Args:
        path: where; written whole or not at all.
        title: heading of the page.
        rows: result rows.
        summary: what `summarise` made of them.
        curves: over time, by (scenario, strategy); a scenario without any has no chart over time.
        provenance: what the results come from, by name: seeds, configuration hash, revision, versions, command line.
        notes: what a reader should know besides.

    Returns:
        The path written.

    Raises:
        ValueError: no rows.
        OSError: the file cannot be written; an old one is untouched.
    """
    if not rows or not summary:
        raise ValueError("no result rows to report; run at least one scenario first")
    references = reference_names(summary)
    parts = [
        element("h1", title),
        element("p", " ".join(verdict(summary)), "lead"),
        *([items(list(notes))] if notes else []),
        table(stated_grid(rows)),
        element("h2", "Results"),
        figure(goodput_by_strategy(summary)),
        table(results_grid(summary)),
        table(behaviour_grid(summary)),
        table(pareto_grid(summary)),
        *([table(improvement_grid(summary))] if references else []),
        *([figure(profiles(rows, summary))] if HINDSIGHT in references else []),
        element("h2", "Family by family"),
        table(family_grid(summarise_families(rows), summary)),
        element("h2", "Scenario by scenario"),
        *([figure(ratio_by_scenario(summary))] if HINDSIGHT in references else []),
        table(scenario_grid(summary)),
        element("h2", "Refusals"),
        *_refusals(summary),
        element("h2", "How to read this"),
        items(_guide(rows, references)),
        element("h2", "Each scenario in detail"),
        *(_details(scenario, rows, summary, curves, references) for scenario in _scenarios(summary)),
        element("h2", "Where the numbers come from"),
        definitions({name: _text(value) for name, value in provenance.items()}),
    ]
    return write_atomic(path, page(title, *parts))


def _guide(rows: Sequence[Row], references: Sequence[str]) -> list[str]:
    seeds = {row["seed"] for row in rows}
    guide = [
        "Goodput share is the share of the offered output tokens that was served within the promised TTFT and TPOT. A "
        "request that was refused, failed or came too late counts as not served.",
        *(_REFERENCES.get(name, f"{name}: taken as a reference in this run.") for name in references),
        "A ratio divides a strategy's goodput by a reference's on the same requests, run by run. Runs in which the "
        "reference served nothing have no ratio and are left out, for every strategy alike.",
        "Figures over seeds are interquartile means: the mean of the middle half. Over all scenarios that sets aside a "
        "strategy's best and worst quarter of runs, so read the last rows of the scenario table too.",
    ]
    if len(seeds) < 2:
        return [*guide, "There is one seed, and so there are no intervals: a difference may be luck."]
    return [
        *guide,
        f"An interval is the middle 95 % of a bootstrap that resamples the {len(seeds)} seeds within each scenario. It "
        "speaks of luck with the requests of these scenarios, not of other scenarios"
        + (", and with so few seeds it is narrower than the truth." if len(seeds) < 10 else "."),
    ]


def _refusals(summary: Sequence[Row]) -> list[str]:
    shares = [row[f"refused_q{quarter}"] for row in summary for quarter in (1, 2, 3, 4)]
    if not any(share > 0 for share in shares):
        return [element("p", "No strategy refused a request.")]
    return [figure(refusals_by_length(summary)), table(refusal_grid(summary))]


def _details(
    scenario: str, rows: Sequence[Row], summary: Sequence[Row], curves: Curves, references: Sequence[str]
) -> str:
    here = [row for row in summary if row["scenario"] == scenario]
    best = max(
        (row for row in here if not row["is_reference"] and not math.isnan(row["goodput_fraction"])),
        key=lambda row: float(row["goodput_fraction"]),
        default=None,
    )
    found = f"; best strategy {best['tuner']} {number(best['goodput_fraction'], 3)}" if best else ""
    drawn = any(place == scenario for place, _ in curves)
    return fold(
        scenario,
        f"{here[0]['family']}, {here[0]['model']} on {here[0]['device']}{found}",
        *([figure(over_time(curves, scenario, summary))] if drawn else []),
        table(results_grid(summary, scenario)),
        table(behaviour_grid(summary, scenario)),
        table(refusal_grid(summary, scenario)),
        table(pareto_grid(summary, scenario)),
        table(runs_grid(rows, scenario, references)),
    )


def _scenarios(summary: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["scenario"] for row in summary if row["scenario"] != OVERALL))


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(_text(inner) for inner in value)
    return "unknown" if value is None else str(value)
