"""What a load test found: figures for a file, a table for people, a page for both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.files import write_atomic, write_json
from batchpilot.core.provenance import provenance
from batchpilot.engines.scheduler.state import FINISH_REASONS
from batchpilot.engines.simulated.result import SimulationResult
from batchpilot.runners.http.load.charts import latency_chart, timeline_chart
from batchpilot.runners.http.load.columns import Columns
from batchpilot.runners.report.grids import ABSENT, Cell, Grid, number, percent
from batchpilot.runners.report.page import definitions, element, figure, items, page, table
from batchpilot.runners.stated import offered, promise_of
from batchpilot.serving.load.files import TOO_MANY
from batchpilot.serving.load.flight import LoadResult

LATE_MS = 20.0
"""A client later than this is said to be."""

MOST_PROMPT_ERROR = 0.05
"""Prompts that are off by more, by the server's count, are said to be."""

_ROWS = {
    "requests": "requests",
    **{f"ended_{reason}": f"ended: {reason.replace('_', ' ')}" for reason in FINISH_REASONS},
    "refused_fraction": "refused",
    "failed_fraction": "failed",
    "goodput_fraction": "goodput share",
    "goodput_tokens_per_s": "goodput, tokens/s",
    "throughput_tokens_per_s": "throughput, tokens/s",
    "slo_attainment": "SLO met",
    **{f"{c}_p{q}_ms": f"{c.upper()} p{q}, ms" for c in ("ttft", "tpot", "e2e") for q in (50, 95, 99)},
    **{f"refusal_ms_p{q}": f"time to refusal p{q}, ms" for q in (50, 95)},
    **{f"failure_ms_p{q}": f"time to failure p{q}, ms" for q in (50, 95)},
    **{f"refused_q{k}": f"refused, prompt quartile {k}" for k in (1, 2, 3, 4)},
    "elapsed_s": "elapsed, s",
    "client_late_p99_ms": "client late p99, ms",
}
_ONLY_IF_ANY = ("ended_", "failed_fraction", "refused_q", "refusal_ms", "failure_ms")


def figures(outcome: SimulationResult) -> dict[str, Any]:
    """The figures of one column.

    Args:
        outcome: of a load test, an engine or a simulation.
    """
    quartiles = outcome.refused_by_prompt_quartile()
    return {
        "requests": len(outcome.requests),
        **{f"ended_{reason}": outcome.count(reason) for reason in FINISH_REASONS},
        "refused_fraction": outcome.refused_fraction,
        "failed_fraction": outcome.count("failed") / max(len(outcome.requests), 1),
        "elapsed_s": outcome.elapsed_ms / 1000.0,
        "goodput_fraction": outcome.goodput_fraction,
        "goodput_tokens_per_s": outcome.goodput_tokens_per_s,
        "throughput_tokens_per_s": outcome.throughput_tokens_per_s,
        "slo_attainment": outcome.slo_attainment,
        **{
            f"{column}_p{q}_ms": outcome.percentile_ms(f"{column}_ms", q)
            for column in ("ttft", "tpot", "e2e")
            for q in (50, 95, 99)
        },
        **{f"refusal_ms_p{q}": outcome.refusal_ms(q) for q in (50, 95)},
        **{f"failure_ms_p{q}": outcome.failure_ms(q) for q in (50, 95)},
        **{f"refused_q{k + 1}": float(share) for k, share in enumerate(quartiles)},
    }


def by_class(outcome: SimulationResult) -> dict[str, dict[str, float]]:
    """Goodput share and attainment of each promise.

    Args:
        outcome: any.
    """
    told = {}
    for index, slo in enumerate(outcome.requests.slos):
        of_class = outcome.requests.slo_class == index
        if not of_class.any():
            continue
        met = outcome.slo_met[of_class]
        served = float(outcome.generated_tokens[of_class][met].sum())
        told[slo.name] = {
            "ttft_target_ms": slo.ttft_ms,
            "tpot_target_ms": slo.tpot_ms,
            "requests": int(of_class.sum()),
            "slo_attainment": float(met.mean()),
            "goodput_fraction": served / float(outcome.requests.output_tokens[of_class].sum()),
        }
    return told


def lateness(late_ms: NDArray[np.float64]) -> dict[str, float]:
    """How late the client itself was.

    Args:
        late_ms: one a request, NaN for a turn that was never sent.
    """
    return {f"client_late_p{q}_ms": float(np.nanpercentile(late_ms, q)) for q in (50, 99, 100)}


def notes(result: LoadResult) -> list[str]:
    """What a reader should know besides.

    Args:
        result: of the load test.
    """
    outcome = result.outcome
    late = lateness(result.late_ms)
    told = [
        "Times count from the moment a request was due, so what the client itself lost is part of them: "
        f"median {late['client_late_p50_ms']:.1f} ms, p99 {late['client_late_p99_ms']:.1f} ms, "
        f"most {late['client_late_p100_ms']:.1f} ms."
    ]
    if late["client_late_p99_ms"] > LATE_MS:
        told.insert(0, "The client could not keep up with its own timetable: run it on a machine of its own.")
    if result.interrupted:
        stopped = f"Stopped by hand after {len(outcome.requests):,} of {result.planned:,} requests; "
        told.insert(0, f"{stopped}{outcome.count('cancelled'):,} under way count neither as served nor as missed.")
    if any(TOO_MANY in detail for detail in result.details):
        told.append("The client ran out of open files (ulimit -n): those failures are its own, not the server's.")
    complete = outcome.finish_code == FINISH_REASONS.index("length")
    shorter = int((complete & (outcome.generated_tokens < outcome.requests.output_tokens)).sum())
    if shorter:
        told.append(f"{shorter:,} complete answers are shorter than asked for; what is missing counts as not served.")
    if result.uncounted:
        told.append(f"{result.uncounted:,} answers came without a usage above 0: their events count, one a token.")
    if result.whole:
        told.append(f"{result.whole:,} answers came whole rather than as a stream: their first token is their last.")
    if abs(result.prompt_ratio - 1.0) > MOST_PROMPT_ERROR:
        ratio = percent(result.prompt_ratio)
        told.append(f"Prompts had {ratio} of the wanted tokens by the server's count; --bytes-per-token corrects that.")
    return told + [
        f"{count:,} {'times' if count > 1 else 'time'}: {detail}" for detail, count in result.details.items()
    ]


def findings(columns: Columns, asked: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Everything but single requests.

    Args:
        columns: what came of the requests.
        asked: what the command was told.
        seed: of everything that was drawn.
    """
    result = columns.result
    others = {name: outcome for name, outcome in columns.outcomes.items() if name != columns.name}
    return {
        "url": asked["url"],
        "scenario": asked["scenario"]["name"],
        "column": columns.name,
        "interrupted": columns.interrupted,
        "planned_requests": result.planned,
        "promise": promise_of(result.outcome.requests),
        "load": offered(result.outcome.requests),
        "served_model": result.model,
        "server": result.server,
        "bytes_per_token": result.bytes_per_token,
        **figures(result.outcome),
        **lateness(result.late_ms),
        "statuses": {str(status): count for status, count in sorted(result.statuses.items())},
        "classes": by_class(result.outcome),
        "columns": {name: figures(outcome) | _late(columns, name) for name, outcome in others.items()},
        **provenance(seed, asked),
    }


def column_grid(columns: Columns) -> Grid:
    """The figures side by side, and how late the client of each run was.

    Args:
        columns: what came of the requests.
    """
    return figure_grid({name: figures(outcome) | _late(columns, name) for name, outcome in columns.outcomes.items()})


def figure_grid(told: Mapping[str, Mapping[str, float]]) -> Grid:
    """Figures side by side.

    Args:
        told: as `figures` has them, by column; what a column lacks stands as absent.
    """
    rows = []
    for key, name in _ROWS.items():
        values = [column.get(key, math.nan) for column in told.values()]
        if key.startswith(_ONLY_IF_ANY) and not any(value > 0 for value in values):
            continue
        rows.append((Cell(name), *(Cell(_shown(key, value)) for value in values)))
    return Grid("What became of the requests?", ("", *told), tuple(rows))


def class_grid(outcome: SimulationResult) -> Grid:
    """One row a promise.

    Args:
        outcome: over HTTP.
    """
    rows = [
        (
            Cell(name),
            Cell(f"{told['ttft_target_ms']:g}"),
            Cell(f"{told['tpot_target_ms']:g}"),
            Cell(f"{told['requests']}"),
            Cell(percent(told["slo_attainment"])),
            Cell(percent(told["goodput_fraction"])),
        )
        for name, told in by_class(outcome).items()
    ]
    header = ("class", "TTFT\nms", "TPOT\nms", "requests", "SLO\nmet", "goodput\nshare")
    return Grid("Which promises were kept?", header, tuple(rows))


def write_load(folder: Path, title: str, columns: Columns, asked: Mapping[str, Any], seed: int) -> None:
    """Write `results.json` and `report.html`, each whole or not at all.

    Args:
        folder: where to.
        title: the page's heading.
        columns: what came of the requests.
        asked: what the command was told.
        seed: of everything that was drawn.
    """
    found = findings(columns, asked, seed)
    for name, run in columns.runs.items():
        column = found if name == columns.name else found["columns"][name]
        column |= {"details": run.details, "per_request": _per_request(run)}
    write_json(folder / "results.json", found)
    outcome = columns.result.outcome
    verdict = (
        f"{percent(outcome.goodput_fraction)} of the offered output tokens were served within their promise, "
        f"{number(outcome.goodput_tokens_per_s)} a second."
    )
    origin = provenance(seed, asked) | {
        "promise": promise_of(outcome.requests),
        "load": offered(outcome.requests),
        "server": asked["url"] or "started by this command",
        "served model": columns.result.model,
        **{f"server's {name}": value for name, value in columns.result.server.items()},
        "step latency of the other columns": asked["latency"],
        "tuner": asked["tuner"],
    }
    content = page(
        title,
        element("h1", title),
        element("p", verdict, "lead"),
        items(notes(columns.result)),
        table(column_grid(columns)),
        table(class_grid(outcome)),
        figure(timeline_chart(outcome)),
        figure(latency_chart(columns.outcomes)),
        element("h2", "Where the numbers come from"),
        definitions({name: str(value) for name, value in origin.items() if value is not None}),
    )
    write_atomic(folder / "report.html", content)


def _shown(key: str, value: float) -> str:
    if math.isnan(value):
        return ABSENT
    if key == "requests" or key.startswith("ended_"):
        return f"{value:,.0f}"
    if "fraction" in key or "attainment" in key or key.startswith("refused_q"):
        return percent(value)
    return number(value, 1)


def _late(columns: Columns, name: str) -> dict[str, float]:
    return lateness(columns.runs[name].late_ms) if name in columns.runs else {}


def _per_request(result: LoadResult) -> dict[str, list[Any]]:
    outcome = result.outcome
    columns = {
        "due_ms": outcome.requests.arrival_ms,
        "late_ms": result.late_ms,
        "prompt_tokens": outcome.requests.prompt_tokens,
        "wanted_tokens": outcome.requests.output_tokens,
        "output_tokens": outcome.generated_tokens,
        "ttft_ms": outcome.ttft_ms,
        "tpot_ms": outcome.tpot_ms,
        "e2e_ms": outcome.e2e_ms,
        "slo_met": outcome.slo_met,
    }
    return {name: values.tolist() for name, values in columns.items()} | {"finish_reason": outcome.finish_reason}
