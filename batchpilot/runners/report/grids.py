"""What the leaderboard's tables say, as plain text in a grid; `tables` shows it on a terminal and `report` as HTML."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from batchpilot.core.limits import DISCIPLINE_WORDS
from batchpilot.runners.report.summary import OVERALL, Row

HINDSIGHT = "static-best"
"""The reference that wins and losses are counted against."""

ABSENT = "-"

MARKS = (
    "▲ better and ▼ worse than the reference, the 95 % interval excluding 1; △ ▽ not settled by these seeds; = equal"
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        text: what it says.
        best: whether it is the best among the strategies.
        reference: whether it belongs to a reference.
    """

    text: str
    best: bool = False
    reference: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """One table; the first column names the row, the others hold figures.

    Attributes:
        title: the question it answers.
        columns: headers, a line break where a narrow column may break.
        rows: cells, as many in each row as there are columns.
        caption: how to read it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""


def results_grid(summary: Sequence[Row], scenario: str = OVERALL) -> Grid:
    """Who is how good: goodput share and ratio to every reference, with intervals, the best first.

    Args:
        summary: summary rows.
        scenario: which scenario's; all of them together by default.
    """
    references = reference_names(summary)
    rows = []
    for rank, row in ranked(summary, scenario):
        ratios = [_ratio(row, reference) for reference in references]
        rows.append(ranked_cells(row, rank, [with_interval(row, "goodput_fraction"), *ratios], best=rank == "1"))
    of_scope = [row for row in summary if row["scenario"] != OVERALL and scenario in (OVERALL, row["scenario"])]
    single = all(row["runs"] < 2 for row in of_scope)
    caption = " ".join([f"{MARKS}."] * bool(references) + ["One seed a scenario: no interval."] * single)
    caption += out_of_turn(summary)
    columns = ("Strategy", "Goodput share\n[95 % interval]", *(f"÷ {name}" for name in references))
    return Grid(f"Which strategy keeps its promises? {_scope(scenario)}", columns, tuple(rows), caption)


def behaviour_grid(summary: Sequence[Row], scenario: str = OVERALL) -> Grid:
    """How each strategy behaves: speed, latency, use of the device, convergence and cost, in the order of goodput.

    Args:
        summary: summary rows.
        scenario: which scenario's; all of them together by default.
    """
    rows = []
    for rank, row in ranked(summary, scenario):
        figures = [_figure(row, column, text) for _, column, text in _BEHAVIOUR]
        rows.append(ranked_cells(row, rank, figures))
    against = next((row["spec_score_reference"] for row in summary), ABSENT)
    caption = (
        "Latencies in ms, means of each run's percentile. ~ mean over the runs that have the figure; beside a settling "
        "time, their share. Latencies are those of served requests; told no: how long refused ones waited to hear it. "
        f"Score: the source documents' 0-100, throughput gain over {against}.{out_of_turn(summary)}"
    )
    columns = ("Strategy", *(header for header, _, _ in _BEHAVIOUR))
    return Grid(f"At what price? {_scope(scenario)}", columns, tuple(rows), caption)


def scenario_grid(summary: Sequence[Row], against: str = HINDSIGHT) -> Grid:
    """Goodput share of every strategy in every scenario, references last, and how many scenarios each won and lost.

    Args:
        summary: summary rows.
        against: the reference that a scenario is won or lost against; without rows nothing is marked.
    """
    ordered = [row for _, row in ranked(summary, OVERALL)]
    names = [row["tuner"] for row in sorted(ordered, key=lambda row: bool(row["is_reference"]))]
    references = set(reference_names(summary))
    by_place = {(row["scenario"], row["tuner"]): row for row in summary}
    scenarios = list(dict.fromkeys(row["scenario"] for row in summary if row["scenario"] != OVERALL))
    rows = []
    for scenario in scenarios:
        shares = {name: by_place[scenario, name]["goodput_fraction"] for name in names if (scenario, name) in by_place}
        online = [share for name, share in shares.items() if name not in references and not math.isnan(share)]
        cells = [Cell(scenario)]
        for name in names:
            reference, share = name in references, shares.get(name, math.nan)
            mark = "" if reference or name not in shares else mark_of(by_place[scenario, name], against)
            best = not reference and bool(online) and share == max(online)
            cells.append(Cell(f"{number(share, 3)}{'*' if best else ''} {mark}".rstrip(), best, reference))
        rows.append(tuple(cells))
    if against in references:
        rows += _tally(by_place, scenarios, names, against)
    marked = f"Marks and the last rows are against {against}. {MARKS}. " if against in references else ""
    caption = f"{marked}Best strategy bold (*), references † set apart.{out_of_turn(summary)}"
    columns = ("Scenario", *(_broken(name, name in references) for name in names))
    return Grid("Where does each strategy win, and where does it lose? Goodput share", columns, tuple(rows), caption)


def refusal_grid(summary: Sequence[Row], scenario: str = OVERALL) -> Grid:
    """Share of requests refused by prompt-length quartile: a gain bought by starving long prompts shows here.

    Args:
        summary: summary rows.
        scenario: which scenario's; all of them together by default.
    """
    rows = []
    for rank, row in ranked(summary, scenario):
        shares = [percent(row[f"refused_q{quartile}"]) for quartile in (1, 2, 3, 4)]
        gap = row["refused_q4"] - row["refused_q1"]
        gap_text = ABSENT if math.isnan(gap) else f"{100 * gap:+.1f}"
        rows.append(ranked_cells(row, rank, [*shares, gap_text, number(row["fairness"], 3)]))
    columns = (
        *("Strategy", "shortest\nquarter", "second", "third", "longest\nquarter"),
        *("longest less\nshortest, points", "fairness\nto users"),
    )
    caption = (
        "Share of requests refused, by quarter of prompt length. A refused request counts as not served. Fairness: "
        "Jain's index over the share of its demand that each user was served in time, 1 where all are served alike."
    )
    caption += out_of_turn(summary)
    return Grid(f"Who is refused? {_scope(scenario)}", columns, tuple(rows), caption)


def runs_grid(rows: Sequence[Row], scenario: str, references: Sequence[str]) -> Grid:
    """Goodput share of every single run of a scenario: what the averages rest on.

    Args:
        rows: result rows.
        scenario: which scenario's.
        references: strategies to mark as references.
    """
    found = {(row["tuner"], row["seed"]): row["goodput_fraction"] for row in rows if row["scenario"] == scenario}
    seeds = sorted({seed for _, seed in found})
    lines = []
    for name in dict.fromkeys(tuner for tuner, _ in found):
        reference = name in references
        shares = [number(found.get((name, seed), math.nan), 3) for seed in seeds]
        lines.append(tuple(Cell(text, reference=reference) for text in (label(name, reference), *shares)))
    return Grid("Every run: goodput share by seed", ("Strategy", *(f"seed {seed}" for seed in seeds)), tuple(lines))


def out_of_turn(summary: Sequence[Row]) -> str:
    """Which strategies serve out of turn, as a sentence for a caption; nothing where none does.

    Args:
        summary: summary rows.
    """
    by_words: dict[str, dict[str, None]] = {}
    for row in summary:
        for name in served_out_of_turn(row):
            by_words.setdefault(name, {})[row["tuner"]] = None
    return "".join(f" {words.capitalize()}: {', '.join(tuners)}." for words, tuners in by_words.items())


def served_out_of_turn(row: Row) -> list[str]:
    """The disciplines in words, first come first served left out, that a strategy used.

    Args:
        row: a result or summary row.
    """
    used = str(row.get("disciplines", "")).split()
    return [DISCIPLINE_WORDS[name] for name in used if name in DISCIPLINE_WORDS and name != "fcfs"]


def reference_names(summary: Sequence[Row]) -> list[str]:
    """The references in the order in which the summary states ratios to them.

    Args:
        summary: summary rows.
    """
    marked = {row["tuner"] for row in summary if row["is_reference"]}
    columns = dict.fromkeys(column for row in summary for column in row)
    return [name for name in (column.removeprefix("ratio_") for column in columns) if name in marked]


def label(name: str, reference: bool) -> str:
    """A strategy's name, a reference's with a dagger.

    Args:
        name: the strategy.
        reference: whether it is a reference.
    """
    return f"{name} †" if reference else name


def number(value: float, digits: int = 0) -> str:
    """A figure with thousands separated, or a dash.

    Args:
        value: the figure; NaN is a dash.
        digits: decimals.
    """
    return ABSENT if math.isnan(value) else f"{value:,.{digits}f}"


def percent(value: float, digits: int = 1) -> str:
    """A share in percent, or a dash.

    Args:
        value: 0-1; NaN is a dash.
        digits: decimals.
    """
    return ABSENT if math.isnan(value) else f"{100 * value:.{digits}f}%"


def with_interval(row: Row, column: str) -> str:
    """A figure and its interval: "0.713 [0.690–0.731]" with an en dash, or "0.713 [-]" where the seeds give none.

    Args:
        row: a summary row.
        column: the figure's column; its ends are in `_low` and `_high`.
    """
    value, low, high = row[column], row[f"{column}_low"], row[f"{column}_high"]
    interval = ABSENT if math.isnan(low) else f"{number(low, 3)}\u2013{number(high, 3)}"
    return ABSENT if math.isnan(value) else f"{number(value, 3)} [{interval}]"


def mark_of(row: Row, reference: str) -> str:
    """Whether a strategy beat a reference: one of ▲ ▼ △ ▽ =, or nothing where there is no ratio.

    Args:
        row: a summary row.
        reference: the reference.
    """
    column = f"ratio_{reference}"
    value = row.get(column, math.nan)
    if math.isnan(value):
        return ""
    if row[f"{column}_low"] > 1:
        return "▲"
    if row[f"{column}_high"] < 1:
        return "▼"
    return "=" if round(value, 3) == 1 else "△" if value > 1 else "▽"


def _settling(row: Row) -> str:
    share, seconds = row["converged_fraction"], row["convergence_s"]
    if math.isnan(seconds):
        return "never"
    return f"{seconds:.0f}s" + ("" if share == 1 else f" ({share:.0%})")


_BEHAVIOUR: tuple[tuple[str, str, Callable[[float], str] | None], ...] = (
    ("tok/s", "throughput_tokens_per_s", number),
    ("TTFT\np95", "ttft_p95_ms", number),
    ("TTFT\np99", "ttft_p99_ms", number),
    ("TPOT\np95", "tpot_p95_ms", number),
    ("TPOT\np99", "tpot_p99_ms", number),
    ("told no\np50", "refusal_p50_ms", number),
    ("told no\np95", "refusal_p95_ms", number),
    ("SLO\nmet", "slo_attainment", percent),
    ("in\nsteps", "utilisation", percent),
    ("success", "success_rate", lambda share: percent(share, 2)),
    ("settled\nafter", "convergence_s", None),
    ("size\nstd/mean", "size_stability", percent),
    ("tuner's\ntime", "tuner_overhead", lambda share: percent(share, 3)),
    ("score", "spec_score", lambda score: number(score, 1)),
)


def _figure(row: Row, column: str, text: Callable[[float], str] | None) -> str:
    partly = "~" if column in row["partly_undefined"].split() else ""
    return partly + (text(row[column]) if text else _settling(row))


def _ratio(row: Row, reference: str) -> str:
    return f"{with_interval(row, f'ratio_{reference}')} {mark_of(row, reference)}".rstrip()


def ranked(summary: Sequence[Row], scenario: str = OVERALL) -> list[tuple[str, Row]]:
    """Rows of a scenario, the best first, each with its rank among the strategies; a reference has none.

    Args:
        summary: summary rows.
        scenario: which scenario's; all of them together by default.
    """
    rows = [row for row in summary if row["scenario"] == scenario]
    rows.sort(key=lambda row: -1.0 if math.isnan(row["goodput_fraction"]) else row["goodput_fraction"], reverse=True)
    rank, found = 0, []
    for row in rows:
        rank += not row["is_reference"]
        found.append(("" if row["is_reference"] else str(rank), row))
    return found


def ranked_cells(row: Row, rank: str, figures: Sequence[str], best: bool = False) -> tuple[Cell, ...]:
    """A strategy's line: its rank and name, then figures.

    Args:
        row: its summary row.
        rank: as `ranked` gave it.
        figures: texts of the other cells.
        best: whether it is the best strategy.
    """
    reference = bool(row["is_reference"])
    name = f"{rank:>2} {label(row['tuner'], reference)}"
    return tuple(Cell(text, best, reference) for text in (name, *figures))


def _tally(
    by_place: Mapping[tuple[str, str], Row], scenarios: Sequence[str], names: Sequence[str], against: str
) -> list[tuple[Cell, ...]]:
    """How often each strategy won and lost, and its worst scenario, which an interquartile mean hides."""
    won, lost, worst = [Cell("won ▲△")], [Cell("lost ▼▽")], [Cell(f"worst ÷ {against}")]
    for name in names:
        rows = [by_place[scenario, name] for scenario in scenarios if (scenario, name) in by_place]
        reference = any(row["is_reference"] for row in rows)
        marks = [mark_of(row, against) for row in rows]
        ratios = [ratio for row in rows if not math.isnan(ratio := row[f"ratio_{against}"])]
        won.append(Cell(str(sum(mark in ("▲", "△") for mark in marks)), reference=reference))
        lost.append(Cell(str(sum(mark in ("▼", "▽") for mark in marks)), reference=reference))
        worst.append(Cell(number(min(ratios, default=math.nan), 3), reference=reference))
    return [tuple(won), tuple(lost), tuple(worst)]


def _broken(name: str, reference: bool) -> str:
    return label(name, reference).replace("-", "-\n", 1)


def _scope(scenario: str) -> str:
    return "Over all scenarios" if scenario == OVERALL else scenario
