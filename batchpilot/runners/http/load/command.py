"""`batchpilot load`: the requests of a scenario or a trace, sent to a server over HTTP at their own times."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from batchpilot.baselines import SERVER_DEFAULT, Setting
from batchpilot.core.files import json_text
from batchpilot.core.limits import TRACKS, Limits
from batchpilot.core.tuner import Tuner
from batchpilot.envs.scenarios import PreparedRun, prepare
from batchpilot.runners.completion import completing
from batchpilot.runners.http.load.columns import run_columns
from batchpilot.runners.http.load.importing import Imported
from batchpilot.runners.http.load.own_engine import OwnEngine, OwnTuner
from batchpilot.runners.http.load.report import column_grid, findings, notes, write_load
from batchpilot.runners.http.load.simulating import simulated
from batchpilot.runners.leaderboard.evaluation import tightest_slo
from batchpilot.runners.leaderboard.strategies import make_strategy
from batchpilot.runners.options import (
    CatalogueOption,
    ColumnsOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    ParametersOption,
    TensorParallelOption,
    TpotOption,
    TraceFormatOption,
    TtftOption,
    refuse,
    reporting_mistakes,
    stdout_console,
)
from batchpilot.runners.report.tables import tables
from batchpilot.runners.selection import (
    Changes,
    chosen_tuner,
    find_scenario,
    find_tuner_config,
    parse_limits,
    replay_of,
)
from batchpilot.runners.torch.backends import (
    BackendOption,
    chosen_server,
    shown_calibration,
    start_backend,
)
from batchpilot.runners.torch.options import KvOption, ThreadsOption
from batchpilot.serving.load.client import Dialect
from batchpilot.serving.load.flight import check_some
from batchpilot.serving.load.http import Address
from batchpilot.serving.load.run import LoadSettings
from batchpilot.tuners import DEFAULT_TUNER
from batchpilot.workloads.table import RequestTable


@reporting_mistakes
def load(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(help="The server's or gateway's address; without one --backend torch starts a server.")
    ] = None,
    scenario: Annotated[
        str, typer.Option(help="A scenario's name or file.", autocompletion=completing("scenarios"))
    ] = "quick-chat",
    trace: Annotated[Path | None, typer.Option(help="Replay this trace instead of a scenario.")] = None,
    trace_format: TraceFormatOption = None,
    columns: ColumnsOption = None,
    rate: Annotated[float, typer.Option(help="Send the requests this many times as fast.")] = 1.0,
    requests_per_s: Annotated[float | None, typer.Option(help="Send them at this mean rate instead.")] = None,
    start_s: Annotated[float, typer.Option(help="Start of the part that is sent, in the scenario's own time.")] = 0.0,
    duration_s: Annotated[float | None, typer.Option(help="Its length; all the rest when left out.")] = None,
    ttft_ms: TtftOption = None,
    tpot_ms: TpotOption = None,
    served_model: Annotated[str | None, typer.Option(help="What requests name; the server's first by default.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="Bearer token.")] = None,
    chat: Annotated[bool, typer.Option(help="Send conversations to /v1/chat/completions.")] = False,
    body: Annotated[str | None, typer.Option(help="JSON fields for every request; null leaves one out.")] = None,
    bytes_per_token: Annotated[float | None, typer.Option(help="Of prompts; the server is asked by default.")] = None,
    grace_s: Annotated[float, typer.Option(help="How long to wait for answers after the last request.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the workload, the prompts and the tuner.")] = 0,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Also simulate the same requests; --backend torch serves them in-process too."),
    ] = False,
    tuner: Annotated[
        str | None,
        typer.Option(
            help="Sets the limits of the columns, and of the server that is started.",
            autocompletion=completing("tuners"),
        ),
    ] = None,
    track: Annotated[str, typer.Option(help=f"What it may move: {', '.join(TRACKS)}.")] = "guarded",
    config: Annotated[Path | None, typer.Option(help="File of its configuration.")] = None,
    limits: Annotated[str | None, typer.Option(help="Constant limits of the simulation: batch_size=64.")] = None,
    backend: BackendOption = "simulated",
    device: DeviceOption = None,
    catalogue: CatalogueOption = None,
    model: ModelOption = None,
    tensor_parallel: TensorParallelOption = None,
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    kv_capacity_tokens: KvOption = None,
    parameters: ParametersOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results.json and report.html.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the results in the folder.")] = False,
    imported: Annotated[
        list[Path] | None,
        typer.Option("--import", help="Send nothing: read result files of this or another load generator."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Send a scenario's requests to a server at their own times and tell what became of them."""
    written = "imported.json" if imported else "results.json"
    if out is not None and (out / written).exists() and not overwrite:
        raise ValueError(f"{out} holds results already; --overwrite replaces them")
    if imported:
        others = set(context.params) - {"imported", "ttft_ms", "tpot_ms", "out", "overwrite", "as_json"}
        refuse(context, "with --import", *sorted(others))
        _show(Imported.of(imported, ttft_ms, tpot_ms), out, as_json=as_json)
        return
    server = chosen_server(
        backend,
        model=model,
        device=device,
        dtype=dtype,
        threads=threads,
        kv_capacity_tokens=kv_capacity_tokens,
        simulated_only={"--limits": limits is not None, "--tensor-parallel": tensor_parallel is not None},
    )
    _check_choices(url, compare=compare, tuner=tuner, limits=limits, own=server is not None)
    _refuse_unused(context, url, compare=compare, tuner=tuner, own=server is not None)
    changes = Changes(device, model, tensor_parallel, dtype, parameters, ttft_ms, tpot_ms)
    dialect = Dialect(chat, _fields(body))
    settings = LoadSettings(url or "", served_model, api_key, bytes_per_token, grace_s, seed, dialect)
    if url is not None:
        Address.parse(url)
    chosen = find_scenario(scenario)
    if trace is not None:
        chosen = replay_of(trace, format=trace_format, columns=columns)
    if server is None and not compare and not chosen.workload.by_load:
        refuse(context, "without --compare", "device", "model", "tensor_parallel", "dtype", "parameters")

    def cut(run: PreparedRun) -> RequestTable:
        sent = _part(run.requests, start_s, duration_s, rate, requests_per_s)
        check_some(sent, with_images=chat and url is not None)
        return sent

    own: OwnEngine | None = None
    if server is None:
        run = prepare(changes.of(chosen), seed)
        sent = cut(run)
        decides = _strategy(run, tuner, track, config, limits)
        simulate = partial(simulated, run.engine, sent, decides, window_ms=run.window_ms, grace_s=grace_s)
    else:
        loaded = start_backend(server, parameters=parameters, seed=seed, show=shown_calibration)
        run = loaded.prepare(replace(changes, device=None, model=None, dtype=None, parameters=None).of(chosen), seed)
        sent = cut(run)
        section = find_tuner_config(None if config is None else str(config))
        tuner = chosen_tuner(tuner, config, section, DEFAULT_TUNER)
        own = OwnEngine(server, loaded, run, sent, OwnTuner(tuner, track, config), seed)
        del loaded
        settings = replace(settings, bytes_per_token=bytes_per_token or own.bytes_per_token)
        simulate = partial(own.simulated, grace_s)
    beside = run_columns(sent, settings, starts=url is None, own=own, simulate=simulate if compare else None)
    if not len(beside.result.outcome.requests):
        typer.secho("stopped before the first request", err=True, fg=typer.colors.YELLOW)
        raise typer.Exit(130)
    asked = {"url": url, "scenario": run.scenario.model_dump(), "rate": rate, "requests_per_s": requests_per_s}
    asked |= {"start_s": start_s, "duration_s": duration_s, "ttft_ms": ttft_ms, "tpot_ms": tpot_ms, "limits": limits}
    asked |= {"backend": backend, "tuner": tuner or (DEFAULT_TUNER if own is not None else None), "track": track}
    asked |= {"latency": run.latency_provenance if compare or own is not None else None}
    if out is not None:
        write_load(out, f"{run.scenario.name} {beside.name}", beside, asked, seed)
    if as_json:
        typer.echo(json_text(findings(beside, asked, seed), indent=2))
    else:
        console = stdout_console()
        console.print(*tables(column_grid(beside)))
        for note in notes(beside.result):
            console.print(note, highlight=False)
    if beside.interrupted:
        raise typer.Exit(130)


def _show(found: Imported, out: Path | None, *, as_json: bool) -> None:
    files = found.write(out) if out is not None else []
    if as_json:
        typer.echo(json_text(found.results(), indent=2))
        return
    console = stdout_console()
    console.print(*tables(found.grid))
    for line in [*found.notes, *map(str, files)]:
        console.print(line, highlight=False)


def _check_choices(url: str | None, *, compare: bool, tuner: str | None, limits: str | None, own: bool) -> None:
    if url is None and not own:
        raise ValueError("--url is missing: the server's address, or --backend torch --model NAME to start one")
    if tuner is not None and limits is not None:
        raise ValueError("--tuner and --limits are both given; the simulation runs with one of them")
    if not compare and limits is not None:
        raise ValueError("--limits are those of the simulation; it runs with --compare")
    if tuner is not None and not (compare or url is None):
        raise ValueError("--tuner is that of the columns beside the server's; they come with --compare")


def _refuse_unused(context: typer.Context, url: str | None, *, compare: bool, tuner: str | None, own: bool) -> None:
    if context.params["trace"] is None:
        refuse(context, "without --trace", "trace_format", "columns")
    else:
        refuse(context, "with --trace", "scenario")
    if context.params["out"] is None:
        refuse(context, "without --out", "overwrite")
    if not (compare or url is None):
        refuse(context, "without --compare", "track", "config")
    elif tuner is None and not own and (context.params["config"] is None or context.params["limits"] is not None):
        refuse(context, "without --tuner", "track", "config")


def _fields(body: str | None) -> dict[str, Any]:
    """What is sent beside the usual."""
    try:
        fields = json.loads(body or "{}")
    except ValueError as error:
        raise ValueError(f"--body is {body!r}, which is no JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ValueError(f"--body is {body!r}; it must be an object such as '{{\"top_p\": 0.9}}'")
    return fields


def _strategy(
    run: PreparedRun, tuner: str | None, track: str, config: Path | None, limits: str | None
) -> Limits | Tuner:
    """What the simulation of catalogued hardware runs with."""
    if limits is not None:
        return parse_limits(limits)
    if tuner is None and config is None:
        return SERVER_DEFAULT
    section = find_tuner_config(None if config is None else str(config))
    tuner = chosen_tuner(tuner, config, section, DEFAULT_TUNER)
    latency = run.engine.believed_latency()
    return make_strategy(tuner, Setting(section, SERVER_DEFAULT, tightest_slo(run), run.seed, track, latency))


def _part(
    requests: RequestTable, start_s: float, duration_s: float | None, rate: float, requests_per_s: float | None
) -> RequestTable:
    """The requests that are sent, at the rate that was asked for."""
    if requests.concurrency:
        if start_s or duration_s is not None or rate != 1.0 or requests_per_s is not None:
            raise ValueError(
                "clients of a closed loop set its pace: no --start-s, --duration-s, --rate, --requests-per-s"
            )
        return requests
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
