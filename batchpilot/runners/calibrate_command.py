"""`batchpilot calibrate`: measured steps in, latency parameters out, with how far to trust them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from batchpilot.core.files import write_atomic
from batchpilot.latency.observations import LOWEST_MS
from batchpilot.latency.residuals import LOSSES
from batchpilot.runners.calibration import LONGEST_STEP_MS, Calibration, calibrate_file
from batchpilot.runners.calibration_grids import models_grid, parameters_grid, verdict
from batchpilot.runners.options import JsonOption, reporting_mistakes, stdout_console
from batchpilot.runners.tables import WIDTH, tables


@reporting_mistakes
def calibrate(
    measurements: Annotated[
        Path | None,
        typer.Option(help="CSV: batch_size, tokens, latency_ms and perhaps context_tokens; or Splitwise's."),
    ] = None,
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
    engine: Annotated[str | None, typer.Option(help="Measure on an engine instead; not there yet.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit the latency model to measured steps, hold it against simpler ones, and say how far to trust it."""
    if engine is not None:
        raise ValueError(
            f"--engine {engine} would measure on this machine, which batchpilot cannot do yet; measure elsewhere and "
            "give --measurements FILE.csv"
        )
    if measurements is None:
        raise ValueError("no measurements; give --measurements FILE.csv")
    for path in (out, report):
        if path is not None and path.exists() and not overwrite:
            raise ValueError(f"{path} is there already; add --overwrite, or give another name")
    asked = {"device": device, "model": model, "tensor_parallel": tensor_parallel}
    found = calibrate_file(
        measurements,
        columns=_pairs(columns, "--columns"),
        select={label: str(value) for label, value in asked.items() if value is not None},
        lowest_ms=min_ms,
        highest_ms=max_ms,
        loss=loss,
        robust=robust,
        fixed=_numbers(_pairs(fix, "--fix")),
        seed=seed,
    )
    if as_json:
        typer.echo(json.dumps(_without_nan(found.to_dict()), indent=2, allow_nan=False))
    else:
        _show(found)
    if out is not None:
        today = datetime.now(UTC).date().isoformat()
        write_atomic(out, yaml.safe_dump(found.to_entry(today), sort_keys=False, allow_unicode=True, width=WIDTH))
    if report is not None:
        from batchpilot.runners.calibration_report import write_calibration_report

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


def _without_nan(value: Any) -> Any:
    """Plain data in which NaN, which JSON lacks, is null."""
    if isinstance(value, Mapping):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
