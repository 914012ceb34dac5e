"""`batchpilot calibrate`: measured steps in, latency parameters out, with how far to trust them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from batchpilot.core.files import json_text, write_atomic
from batchpilot.latency.fitting.observations import LOWEST_MS
from batchpilot.latency.fitting.residuals import LOSSES
from batchpilot.runners.calibration.asking import LARGEST_BATCH, LARGEST_PROMPT, SHORTEST_PROMPT
from batchpilot.runners.calibration.calibrating import (
    LONGEST_STEP_MS,
    Calibration,
    calibrate_files,
    calibrate_server,
)
from batchpilot.runners.calibration.grids import models_grid, parameters_grid, verdict
from batchpilot.runners.options import JsonOption, refuse, reporting_mistakes, stdout_console
from batchpilot.runners.report.tables import WIDTH, tables
from batchpilot.runners.selection import parse_limits
from batchpilot.runners.torch.calibration import (
    ENGINES,
    MEASURED_LIMITS,
    TorchServer,
    calibrate_engine,
    named_engine,
    write_steps,
)
from batchpilot.runners.torch.options import (
    REPEATS,
    TRIALS,
    DtypeOption,
    KvOption,
    LimitsOption,
    RepeatsOption,
    ThreadsOption,
    TrialsOption,
    shown,
)

READERS = (
    "# Step latency: --parameters of batchpilot plan, tune, simulate, leaderboard, compare, serve, gateway reads it.\n"
)


@reporting_mistakes
def calibrate(
    context: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="CSV: batch_size, tokens, latency_ms and perhaps context_tokens; or Splitwise's."),
    ] = None,
    measurements: Annotated[Path | None, typer.Option(help="One more such file.")] = None,
    columns: Annotated[
        str | None, typer.Option(help="What the file calls them: batch_size=B,tokens=S,latency_ms=T,context_tokens=C.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Only rows of this device; a label where no column says.")] = None,
    model: Annotated[str | None, typer.Option(help="Only rows of this model; a label where no column says.")] = None,
    tensor_parallel: Annotated[
        int | None, typer.Option(min=1, help="Only rows of so many devices; a label where no column says.")
    ] = None,
    loss: Annotated[str, typer.Option(help=f"What is minimised: {', '.join(LOSSES)}.")] = "relative",
    robust: Annotated[bool, typer.Option(help="Hold outliers back.")] = True,
    fix: Annotated[str | None, typer.Option(help="Parameters that are not fitted: tau_c=0,k_b=10.")] = None,
    min_ms: Annotated[float, typer.Option(help="Drop steps as short or shorter.")] = LOWEST_MS,
    max_ms: Annotated[float, typer.Option(help="Drop steps as long or longer.")] = LONGEST_STEP_MS,
    seed: Annotated[int, typer.Option(help="Of the fit's random starts.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the parameters to this YAML file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a report with charts to this HTML file.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace files that are there.")] = False,
    engine: Annotated[
        str | None, typer.Option(help=f"Measure on an engine instead of reading a file: {', '.join(ENGINES)}.")
    ] = None,
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = None,
    kv_capacity_tokens: KvOption = None,
    limits: LimitsOption = None,
    trials: TrialsOption = TRIALS,
    repeats: RepeatsOption = REPEATS,
    url: Annotated[
        str | None, typer.Option(help="Measure a running OpenAI-compatible server that serves nobody else meanwhile.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="Bearer token of --url.")] = None,
    chat: Annotated[bool, typer.Option(help="Ask --url in conversations.")] = False,
    largest_batch: Annotated[int, typer.Option(min=1, help="Most requests at a time that --url is sent.")] = (
        LARGEST_BATCH
    ),
    largest_prompt: Annotated[
        int, typer.Option(min=SHORTEST_PROMPT, help="Longest prompt sent to --url; one that a single step computes.")
    ] = LARGEST_PROMPT,
    minutes: Annotated[float, typer.Option(min=0, help="How long --url is asked, at least one round.")] = 3.0,
    steps: Annotated[Path | None, typer.Option(help="Write the measured steps to this CSV file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit the latency model to measured steps, hold it against simpler ones, and say how far to trust it."""
    measured_files = [*(files or ()), *([] if measurements is None else [measurements])]
    if (measured_files or None, engine, url).count(None) != 2:
        raise ValueError(
            "give one of these: measurements, FILE.csv or --measurements FILE.csv; an engine to measure, "
            "--engine torch --model; or a running server, --url http://127.0.0.1:8000"
        )
    if engine is None:
        refuse(context, "without --engine", "dtype", "threads", "kv_capacity_tokens", "limits", "trials", "repeats")
    if url is None:
        refuse(context, "without --url", "api_key", "chat", "largest_batch", "largest_prompt", "minutes")
    if measured_files:
        refuse(context, "with files of measurements", "steps")
    if engine is not None:
        refuse(context, "with --engine", "columns", "tensor_parallel")
    if url is not None:
        refuse(context, "with --url", "columns")
    if not (out or report or steps):
        refuse(context, "without --out, --report or --steps", "overwrite")
    for path in (out, report, steps):
        if path is not None and path.exists() and not overwrite:
            raise ValueError(f"{path} is there already; add --overwrite, or give another name")
    options: dict[str, Any] = {
        "lowest_ms": min_ms,
        "highest_ms": max_ms,
        "loss": loss,
        "robust": robust,
        "fixed": _numbers(_pairs(fix, "--fix")),
        "seed": seed,
    }
    if measured_files:
        asked = {"device": device, "model": model, "tensor_parallel": tensor_parallel}
        found = calibrate_files(
            *measured_files,
            columns=_pairs(columns, "--columns"),
            select={label: str(value) for label, value in asked.items() if value is not None},
            **options,
        )
    elif url is not None:
        asked = {"device": device, "tensor_parallel": tensor_parallel}
        labels = {label: str(value) for label, value in asked.items() if value is not None}
        found, measured = calibrate_server(
            url, labels, model=model, api_key=api_key, chat=chat, largest_batch=largest_batch,
            largest_prompt=largest_prompt, minutes=minutes, show=lambda text: typer.echo(text, err=True), **options,
        )  # fmt: skip
    else:
        named_engine(str(engine))
        if model is None:
            raise ValueError("no model to measure; give --model, a preset, a folder or a Hugging Face name")
        server = TorchServer(model, device, dtype, threads, kv_capacity_tokens, seed)
        largest = parse_limits(limits) if limits is not None else MEASURED_LIMITS
        found, measured = calibrate_engine(
            server, largest, trials=trials, repeats=repeats, show=lambda runs: shown(runs, trials * repeats), **options
        )
    if steps is not None:
        write_steps(steps, measured)
    if as_json:
        typer.echo(json_text(found.to_dict(), indent=2))
    else:
        _show(found)
    if out is not None:
        today = datetime.now(UTC).date().isoformat()
        entry = yaml.safe_dump(found.to_entry(today), sort_keys=False, allow_unicode=True, width=WIDTH)
        write_atomic(out, READERS + entry)
    if report is not None:
        from batchpilot.runners.calibration.report import write_calibration_report

        write_calibration_report(report, found)


def _show(found: Calibration) -> None:
    console = stdout_console()
    for grid in (models_grid(found), parameters_grid(found)):
        for table in tables(grid):
            console.print(table)
    for text in found.fit.problems:
        typer.secho(f"problem: {text}", fg=typer.colors.RED)
    for text in (*found.fit.notes, *found.remarks):
        typer.echo(f"note: {text}")
    bounds = f"steps outside {found.dropped.lowest_ms:g} to {found.dropped.highest_ms:g} ms or without work"
    typer.echo(f"dropped ({bounds}): {found.dropped}")
    typer.secho(verdict(found), bold=True)


def _pairs(text: str | None, option: str) -> dict[str, str]:
    """Names and values of `a=1,b=2`."""
    pairs = {}
    for part in (text or "").split(",") if text else ():
        name, equals, value = part.partition("=")
        if not (equals and name.strip() and value.strip()):
            raise ValueError(f"{option} {text!r}: {part.strip()!r} is not of the form name=value")
        pairs[name.strip()] = value.strip()
    return pairs


def _numbers(pairs: Mapping[str, str]) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in pairs.items()}
    except ValueError as error:
        raise ValueError(f"--fix: {error}; expected numbers") from None
