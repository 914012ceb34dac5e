"""`batchpilot load`: the requests of a scenario or a trace, sent to a server over HTTP at their own times."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.core.files import write_atomic
from batchpilot.core.provenance import provenance
from batchpilot.core.slo import SLO
from batchpilot.engines import SimulatedEngine, SimulationResult, run_engine
from batchpilot.envs.scenarios import PreparedRun, prepare
from batchpilot.runners.http.load_report import (
    OVER_HTTP,
    by_class,
    column_grid,
    figures,
    lateness,
    notes,
    write_load_page,
)
from batchpilot.runners.options import (
    DeviceOption,
    JsonOption,
    ModelOption,
    TensorParallelOption,
    reporting_mistakes,
    stdout_console,
)
from batchpilot.runners.report.tables import tables
from batchpilot.runners.selection import find_scenario, on_hardware, parse_limits
from batchpilot.workloads.readers import READERS
from batchpilot.workloads.table import RequestTable

if TYPE_CHECKING:
    from batchpilot.serving.load.run import LoadResult, LoadSettings

TRACE_SCENARIO = "trace-replay"


@reporting_mistakes
def load(
    url: Annotated[str, typer.Option(help="The server's or gateway's address, http://127.0.0.1:8000.")],
    scenario: Annotated[str, typer.Option(help="A scenario's name or file.")] = "quick-chat",
    trace: Annotated[Path | None, typer.Option(help="Replay this trace instead of a scenario.")] = None,
    trace_format: Annotated[str, typer.Option("--format", help=f"Of the trace: {', '.join(READERS)}.")] = "azure2023",
    rate: Annotated[float, typer.Option(help="Send the requests this many times as fast.")] = 1.0,
    requests_per_s: Annotated[float | None, typer.Option(help="Send them at this mean rate instead.")] = None,
    start_s: Annotated[float, typer.Option(help="Start of the part that is sent, in the scenario's own time.")] = 0.0,
    duration_s: Annotated[float | None, typer.Option(help="Its length; all the rest when left out.")] = None,
    ttft_ms: Annotated[float | None, typer.Option(help="Promise this TTFT to every request.")] = None,
    tpot_ms: Annotated[float | None, typer.Option(help="Promise this TPOT to every request.")] = None,
    served_model: Annotated[str | None, typer.Option(help="What requests name; the server's first by default.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="Bearer token.")] = None,
    bytes_per_token: Annotated[float | None, typer.Option(help="Of prompts; the server is asked by default.")] = None,
    grace_s: Annotated[float, typer.Option(help="How long to wait for answers after the last request.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the workload and the prompts.")] = 0,
    device: DeviceOption = None,
    model: ModelOption = None,
    tensor_parallel: TensorParallelOption = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also simulate the same requests, as a column.")] = False,
    limits: Annotated[str | None, typer.Option(help="What the simulation runs with: batch_size=64.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results.json and report.html.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the results in the folder.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Send a scenario's requests to a server at their own times and tell what became of them."""
    if out is not None and (out / "results.json").exists() and not overwrite:
        raise ValueError(f"{out} holds results already; --overwrite replaces them")
    if limits is not None and not compare:
        raise ValueError("--limits are those of the simulation; it runs with --compare")
    chosen = find_scenario(scenario)
    if trace is not None:
        chosen = find_scenario(TRACE_SCENARIO).with_trace(file=str(trace), format=trace_format)
    run = prepare(on_hardware(chosen, device, model, tensor_parallel), seed)
    sent = _part(run.requests, start_s, duration_s, rate, requests_per_s)
    sent = _promised(sent, ttft_ms, tpot_ms)
    try:
        from batchpilot.serving.load.run import LoadSettings
    except ImportError as error:
        raise ValueError(f"a load test needs the extra: pip install 'batchpilot[serve]' ({error})") from None
    result = _send(sent, LoadSettings(url, served_model, api_key, bytes_per_token, grace_s, seed))
    columns = {OVER_HTTP: result.outcome}
    if compare:
        columns = {"simulated": _simulated(run, sent, limits), **columns}
    asked = {"url": url, "scenario": run.scenario.model_dump(), "rate": rate, "requests_per_s": requests_per_s}
    asked |= {"start_s": start_s, "duration_s": duration_s, "ttft_ms": ttft_ms, "tpot_ms": tpot_ms, "limits": limits}
    found: dict[str, Any] = {
        "url": url,
        "scenario": run.scenario.name,
        "served_model": result.model,
        "bytes_per_token": result.bytes_per_token,
        **figures(result.outcome),
        **lateness(result.late_ms),
        "statuses": {str(status): count for status, count in sorted(result.statuses.items())},
        "classes": by_class(result.outcome),
        **provenance(seed, asked),
    }
    compared = {name: figures(outcome) for name, outcome in columns.items() if name != OVER_HTTP}
    if out is not None:
        everything = found | {"columns": compared, "details": result.details, "per_request": _per_request(result)}
        write_atomic(out / "results.json", json.dumps(everything, indent=1) + "\n")
        told = provenance(seed, asked) | {"url": url, "served model": result.model}
        write_load_page(out / "report.html", f"{run.scenario.name} over HTTP", columns, result, told)
    if as_json:
        typer.echo(json.dumps(found | {"columns": compared}, indent=2))
        return
    console = stdout_console()
    console.print(*tables(column_grid(columns)))
    for note in notes(result):
        console.print(note, highlight=False)


def _part(
    requests: RequestTable, start_s: float, duration_s: float | None, rate: float, requests_per_s: float | None
) -> RequestTable:
    """The requests that are sent, at the rate that was asked for."""
    if start_s or duration_s is not None:
        end_s = np.inf if duration_s is None else start_s + duration_s
        requests = requests.window(1000.0 * start_s, 1000.0 * end_s)
    if requests_per_s is not None:
        if rate != 1.0:
            raise ValueError("--rate and --requests-per-s are both given; give one")
        if not requests_per_s > 0:
            raise ValueError(f"--requests-per-s is {requests_per_s}; it must be above 0")
        span_s = requests.duration_ms / 1000.0
        rate = requests_per_s * span_s / (len(requests) - 1) if span_s > 0 else 1.0
    return requests.scale_rate(rate)


def _promised(requests: RequestTable, ttft_ms: float | None, tpot_ms: float | None) -> RequestTable:
    if ttft_ms is None and tpot_ms is None:
        return requests
    return requests.with_slos([SLO(ttft_ms or slo.ttft_ms, tpot_ms or slo.tpot_ms, slo.name) for slo in requests.slos])


def _simulated(run: PreparedRun, sent: RequestTable, limits: str | None) -> SimulationResult:
    engine = SimulatedEngine(run.engine, sent)
    asked = SERVER_DEFAULT if limits is None else parse_limits(limits)
    return run_engine(engine, asked, window_ms=run.window_ms, horizon_ms=None)


def _send(sent: RequestTable, settings: LoadSettings) -> LoadResult:
    """Send everything, with a bar on standard error where that is a terminal."""
    from batchpilot.serving.load.run import run_load

    console = Console(stderr=True)
    shown = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*shown, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("requests", total=len(sent))
        return asyncio.run(run_load(sent, settings, lambda ended: progress.update(task, completed=ended)))


def _per_request(result: LoadResult) -> dict[str, list[Any]]:
    outcome = result.outcome
    columns = {
        "due_ms": outcome.requests.arrival_ms,
        "late_ms": result.late_ms,
        "prompt_tokens": outcome.requests.prompt_tokens,
        "output_tokens": outcome.generated_tokens,
        "ttft_ms": outcome.ttft_ms,
        "tpot_ms": outcome.tpot_ms,
        "e2e_ms": outcome.e2e_ms,
        "slo_met": outcome.slo_met,
    }
    return {name: values.tolist() for name, values in columns.items()} | {"finish_reason": outcome.finish_reason}
