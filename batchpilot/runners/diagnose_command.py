"""`batchpilot diagnose`: which limit of a server binds, with the figures that say so and the one change to try."""

from __future__ import annotations

import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.configs.catalogue import device as find_device
from batchpilot.configs.catalogue import model as find_model
from batchpilot.core.files import json_text
from batchpilot.core.slo import SLO
from batchpilot.diagnosis.evidence import Evidence, Hardware
from batchpilot.diagnosis.relaxing import Relaxed, evidence_of, relax
from batchpilot.diagnosis.rules import NOTHING, Verdict, diagnose, judged
from batchpilot.diagnosis.symptoms import symptoms, targets
from batchpilot.envs.scenarios import prepare
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
from batchpilot.runners.selection import Changes, check_promise, parse_limits, replay_of
from batchpilot.serving.scraping import Page, evidence_from

_TIMEOUT_S = 10.0


@reporting_mistakes
def diagnose_command(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(help="Watch this server's /metrics.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Replay this trace through the simulator.")] = None,
    metrics: Annotated[
        list[Path] | None, typer.Option(help="Read saved Prometheus pages; several in order of time.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to watch.")] = 30.0,
    every: Annotated[float, typer.Option(min=0.01, help="Seconds between two looks.")] = 1.0,
    trace_format: TraceFormatOption = None,
    columns: ColumnsOption = None,
    limits: Annotated[
        str | None, typer.Option(help="In force, where the server does not tell: batch_size=256,token_budget=2048.")
    ] = None,
    device: DeviceOption = None,
    catalogue: CatalogueOption = None,
    model: ModelOption = None,
    tensor_parallel: TensorParallelOption = None,
    dtype: DtypeOption = None,
    parameters: ParametersOption = None,
    ttft_ms: TtftOption = None,
    tpot_ms: TpotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which limit binds: batch, tokens, KV, queue, compute, memory bandwidth, or nothing; and what to try."""
    if sum((url is not None, trace is not None, bool(metrics))) != 1:
        raise ValueError("give one of --url URL, --trace FILE and --metrics FILE")
    if url is None:
        refuse(context, "without --url", "seconds")
    if trace is None:
        refuse(context, "without --trace", "trace_format", "columns", "parameters")
        check_promise(ttft_ms, tpot_ms)
    else:
        refuse(context, "with --trace", "every")
    worth: Relaxed | None = None
    if trace is not None:
        changes = Changes(device, model, tensor_parallel, dtype, parameters, ttft_ms, tpot_ms)
        run = prepare(changes.of(replay_of(trace, format=trace_format, columns=columns)), 0)
        on, told = run.scenario, parse_limits(limits) if limits is not None else SERVER_DEFAULT
        hardware = Hardware(find_device(on.device), find_model(on.model), on.tensor_parallel, on.dtype)
        with Console(stderr=True).status("simulating"):
            worth = relax(run.engine, run.requests, told, run.window_ms)
        evidence = evidence_of(worth.result, hardware)
        verdict = judged(worth.binds, told_by(worth), evidence)
        if worth.narrowed is not None:
            better = f"halve the {worth.narrowed} limit: requests then take {worth.narrower[worth.narrowed]:.2f} times"
            verdict = replace(verdict, change=f"{better} their targets")
    else:
        slo = SLO(ttft_ms or SLO().ttft_ms, tpot_ms or SLO().tpot_ms, "promised")
        known = {} if limits is None else parse_limits(limits).to_dict()
        stated = {name: float(value) for name, value in known.items() if isinstance(value, int | float)}
        hardware_or_none = _hardware(device, model, tensor_parallel, dtype)
        pages = _watched(url, seconds, every) if url is not None else _saved(metrics or [], every)
        evidence = evidence_from(pages, slo, hardware_or_none, stated)
        verdict = diagnose(evidence)
    if as_json:
        typer.echo(json_text(_stated(evidence, verdict, worth), indent=2))
    else:
        _print(evidence, verdict, worth)


def told_by(worth: Relaxed) -> str:
    """What simulation says of a limit, in a sentence.

    Args:
        worth: what each is worth.
    """
    if worth.binds == NOTHING:
        return f"no limit twice as wide saves anything: requests take {worth.lateness:.2f} times their targets"
    later = worth.wider[worth.binds]
    return f"requests take {worth.lateness:.2f} times their targets, with twice the {worth.binds} {later:.2f} times"


def _hardware(device: str | None, model: str | None, tensor_parallel: int | None, dtype: str | None) -> Hardware | None:
    if device is None and model is None:
        if tensor_parallel is not None or dtype is not None:
            raise ValueError("--tensor-parallel and --dtype mean nothing without --device and --model; say them too")
        return None
    if device is None or model is None:
        raise ValueError("--device and --model go together: what a step asks of the device follows from both")
    return Hardware(find_device(device), find_model(model), tensor_parallel or 1, dtype)


def _watched(url: str, seconds: float, every: float) -> list[Page]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"--url {url} is no address of a server; it should look like http://localhost:8000")
    address = url.rstrip("/") + ("" if parts.path.strip("/") else "/metrics")
    pages: list[Page] = []
    started_s = time.monotonic()
    with Console(stderr=True).status(f"watching {address} for {seconds:g} s"):
        while True:
            with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:
                pages.append(Page.parse(answer.read().decode("utf-8", "replace"), time.monotonic()))
            left_s = seconds - (time.monotonic() - started_s)
            if left_s <= 0:
                return pages
            time.sleep(min(every, left_s))


def _saved(paths: list[Path], every: float) -> list[Page]:
    return [Page.parse(path.read_text("utf-8"), k * every) for k, path in enumerate(paths)]


def _stated(evidence: Evidence, verdict: Verdict, worth: Relaxed | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "source": evidence.source,
        "binds": verdict.binds,
        "because": verdict.because,
        "change": verdict.change,
        "evidence": verdict.evidence,
        "symptoms": [{"name": one.name, "cause": one.cause, "told": one.told} for one in symptoms(evidence)],
        "targets": [{"name": one.name, "value": one.value, "kept": one.kept} for one in targets(evidence)],
    }
    if worth is not None:
        told["lateness"] = {"as_it_is": worth.lateness, "twice": worth.wider, "half": worth.narrower}
        told["binds_by_rules"] = diagnose(evidence).binds
    return told


def _print(evidence: Evidence, verdict: Verdict, worth: Relaxed | None) -> None:
    console = stdout_console()
    console.print(f"{verdict.binds} binds: {verdict.because}", markup=False)
    console.print(f"try: {verdict.change}\n", markup=False)
    if worth is not None:
        table = Table(box=box.SIMPLE, pad_edge=False, title="What is each limit worth?")
        for title in ("limit", "times its target, twice as wide", "half as wide"):
            table.add_column(title)
        table.add_row("as it is", f"{worth.lateness:.2f}", "")
        for name, late in sorted(worth.wider.items(), key=lambda pair: pair[1]):
            half = worth.narrower.get(name)
            table.add_row(name, f"{late:.2f}", "" if half is None else f"{half:.2f}")
        console.print(table)
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False, title=f"Evidence ({evidence.source})")
    for name, value in verdict.evidence.items():
        table.add_row(name, f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}")
    console.print(table)
    for one in symptoms(evidence):
        console.print(f"symptom: {one.name}: {one.cause} ({one.told})", markup=False)
    for target in targets(evidence):
        if target.kept is not None:
            console.print(f"{'kept' if target.kept else 'MISSED'}: {target.name}: {target.value:.3g}", markup=False)
