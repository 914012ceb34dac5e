"""What tables, pages and files say before their figures: promise, load, device, model, where the latency comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from batchpilot.core.slo import SLO
from batchpilot.envs.scenarios import PreparedRun, capacity_per_s
from batchpilot.runners.report.grids import ABSENT, Cell, Grid
from batchpilot.workloads.table import RequestTable


def stated(run: PreparedRun) -> dict[str, Any]:
    """What a run was, as columns of a result row.

    Args:
        run: the run.
    """
    return {
        "promise": promise_of(run.requests),
        "load": load_of(run),
        "device": run.scenario.device,
        "tensor_parallel": run.scenario.tensor_parallel,
        "model": run.scenario.model,
        "dtype": run.scenario.dtype,
        "latency": run.latency_provenance,
    }


def promise_of(requests: RequestTable) -> str:
    """What the requests were promised, the commonest promise first.

    Args:
        requests: of a run.
    """
    counts: dict[str, int] = {}
    for slo, count in zip(requests.slos, np.bincount(requests.slo_class, minlength=len(requests.slos)), strict=True):
        if count:
            counts[promise_text(slo)] = counts.get(promise_text(slo), 0) + int(count)
    if len(counts) < 2:
        return next(iter(counts), "nobody asked")
    kept = sorted(counts.items(), key=lambda pair: -pair[1])
    return "; ".join(f"{told} ({count / len(requests):.0%})" for told, count in kept)


def promise_text(slo: SLO) -> str:
    """A promise in words.

    Args:
        slo: the promise.
    """
    targets = {"TTFT": slo.ttft_ms, "TPOT": slo.tpot_ms}
    told = [f"{name} {_digits(target, 4)} ms" for name, target in targets.items() if math.isfinite(target)]
    return ", ".join(told) or "none"


def load_of(run: PreparedRun) -> str:
    """How much was asked: clients of a closed loop, or requests per second and as a share of the estimated capacity.

    Args:
        run: the run.
    """
    requests = run.requests
    if requests.concurrency or requests.turns is not None or requests.duration_ms <= 0:
        return offered(requests)
    prompt, output = float(requests.prompt_tokens.mean()), float(requests.output_tokens.mean())
    capacity = capacity_per_s(run.engine.believed_latency(), run.engine.capacity_tokens, prompt, output)
    return f"{offered(requests)}, {_rate(requests) / capacity:.2f} of the estimated capacity"


def offered(requests: RequestTable) -> str:
    """How much was asked, whoever serves it.

    Args:
        requests: of a run.
    """
    if requests.concurrency:
        return f"{requests.concurrency} clients, {len(requests)} requests"
    if requests.turns is not None:
        return f"{int(requests.turns.first().sum())} conversations, {len(requests)} turns"
    return f"{_digits(_rate(requests), 3)} requests/s" if requests.duration_ms > 0 else f"{len(requests)} requests"


def _digits(value: float, digits: int) -> str:
    """A number with so many digits, never as a power of ten."""
    return f"{value:.0f}" if value >= 10.0**digits else f"{value:.{digits}g}"


def _rate(requests: RequestTable) -> float:
    """Requests per second."""
    return 1000.0 * (len(requests) - 1) / requests.duration_ms


def stated_grid(rows: Sequence[Mapping[str, Any]], *, latency: bool = True) -> Grid:
    """What each scenario of a leaderboard was at its first seed, a row each.

    Args:
        rows: result rows with the columns of `stated`; one that a row lacks is shown as absent.
        latency: whether to say where the step latency comes from.
    """
    first = {row["scenario"]: row for row in reversed(rows)}
    names = dict.fromkeys(row["scenario"] for row in rows)
    columns = ("promise", "load", "device", "model")
    cells = [(Cell(name), *(Cell(_text(first[name], column)) for column in columns)) for name in names]
    caption = _latencies({name: str(first[name].get("latency", ABSENT)) for name in names}) if latency else ""
    return Grid("What was promised, and who served what?", ("Scenario", *columns), tuple(cells), caption)


def _latencies(sources: Mapping[str, str]) -> str:
    """Where step latencies come from, each source once; sources by scenario."""
    scenarios: dict[str, list[str]] = {}
    for name, source in sources.items():
        scenarios.setdefault(source, []).append(name)
    if len(scenarios) == 1:
        return f"Step latency: {next(iter(scenarios))}."
    return "Step latency. " + " ".join(f"{', '.join(names)}: {source}." for source, names in scenarios.items())


def _text(row: Mapping[str, Any], column: str) -> str:
    told = str(row.get(column, ABSENT))
    if column == "device" and row.get("tensor_parallel", 1) != 1:
        return f"{row['tensor_parallel']} x {told}"
    return f"{told} ({row['dtype']})" if column == "model" and "dtype" in row else told
