"""`batchpilot load`: the requests of a scenario or a trace, sent to a server over HTTP at their own times."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchpilot.core.limits import TRACKS
from batchpilot.runners.http.load.asked import check_choices, fields_of, refuse_beside_import, refuse_unused
from batchpilot.runners.http.load.columns import run_columns
from batchpilot.runners.http.load.importing import Imported
from batchpilot.runners.http.load.options import (
    CompareOption,
    ImportOption,
    ScenarioOption,
    TunerOption,
    UrlOption,
)
from batchpilot.runners.http.load.part import Part
from batchpilot.runners.http.load.preparing import Decides, Sending, on_catalogued, on_own_engine
from batchpilot.runners.http.load.report import write_load
from batchpilot.runners.http.load.telling import show_columns, show_imported
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
)
from batchpilot.runners.selection import Changes, find_scenario, replay_of
from batchpilot.runners.torch.backends import BackendOption, chosen_server
from batchpilot.runners.torch.options import KvOption, ThreadsOption
from batchpilot.serving.load.client import Dialect
from batchpilot.serving.load.http import Address
from batchpilot.serving.load.run import LoadSettings


@reporting_mistakes
def load(
    context: typer.Context,
    url: UrlOption = None,
    scenario: ScenarioOption = "quick-chat",
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
    compare: CompareOption = False,
    tuner: TunerOption = None,
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
    imported: ImportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a scenario's requests to a server at their own times and tell what became of them."""
    written = "imported.json" if imported else "results.json"
    if out is not None and (out / written).exists() and not overwrite:
        raise ValueError(f"{out} holds results already; --overwrite replaces them")
    if imported:
        refuse_beside_import(context)
        show_imported(Imported.of(imported, ttft_ms, tpot_ms), out, as_json=as_json)
        return
    changes = Changes(device, model, tensor_parallel, dtype, parameters, ttft_ms, tpot_ms)
    simulated_only = {"--limits": limits is not None, "--tensor-parallel": tensor_parallel is not None}
    server = chosen_server(backend, changes, threads, kv_capacity_tokens, simulated_only)
    check_choices(url, compare=compare, tuner=tuner, limits=limits, own=server is not None)
    refuse_unused(context, own=server is not None)
    dialect = Dialect(chat, fields_of(body))
    settings = LoadSettings(url or "", served_model, api_key, bytes_per_token, grace_s, seed, dialect)
    if url is not None:
        Address.parse(url)
    chosen = find_scenario(scenario)
    if trace is not None:
        chosen = replay_of(trace, format=trace_format, columns=columns)
    part, decides = Part(start_s, duration_s, rate, requests_per_s), Decides(tuner, track, config, limits)
    sending = Sending(part, chat and url is not None, seed, grace_s)
    if server is None:
        if not compare and not chosen.workload.by_load:
            refuse(context, "without --compare", "device", "model", "tensor_parallel", "dtype", "parameters")
        ready = on_catalogued(changes.of(chosen), sending, decides)
    else:
        ready = on_own_engine(server, parameters, changes.without_hardware().of(chosen), sending, decides)
    simulate = ready.simulate if compare else None
    beside = run_columns(ready.sent, settings, starts=url is None, own=ready.own, simulate=simulate)
    if not len(beside.result.outcome.requests):
        typer.secho("stopped before the first request", err=True, fg=typer.colors.YELLOW)
        raise typer.Exit(130)
    asked = ready.asked(url, part, changes, decides, backend, compare=compare)
    if out is not None:
        write_load(out, f"{ready.run.scenario.name} {beside.name}", beside, asked, seed)
    show_columns(beside, asked, seed, as_json=as_json)
    if beside.interrupted:
        raise typer.Exit(130)
