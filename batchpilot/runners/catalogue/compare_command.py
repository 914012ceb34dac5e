"""`batchpilot catalogue compare`: the step latency of one model on every device, side by side."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from batchpilot.configs.catalogue import devices
from batchpilot.configs.catalogue import model as find_model
from batchpilot.core.files import json_text
from batchpilot.latency.model.registry import find_latency
from batchpilot.runners.completion import completing
from batchpilot.runners.options import CatalogueOption, JsonOption, reporting_mistakes, stdout_console

STEPS = {
    "decode of 1": (1, 1, 1024),
    "decode of 32": (32, 32, 32 * 1024),
    "prefill of 2,048": (1, 2048, 0),
}
"""Requests, tokens and context tokens of the steps that are shown, in ms."""

_PARAMETERS = ("p_max", "k_b", "k_s", "tau_0", "tau_b", "tau_s", "tau_c", "tau_e")


@reporting_mistakes
def compare(
    model: Annotated[str, typer.Option(help="A catalogued model.", autocompletion=completing("models"))],
    tensor_parallel: Annotated[int, typer.Option(min=1, help="Devices that share each layer.")] = 1,
    dtype: Annotated[str | None, typer.Option(help="Type of the weights; as published unless given.")] = None,
    catalogue: CatalogueOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the latency parameters of a model on all devices, and what they say of three steps."""
    served = find_model(model)
    rows: list[dict[str, Any]] = []
    left_out = []
    for one in devices():
        if one.link_gb_per_s is None and tensor_parallel > 1:
            continue
        try:
            found = find_latency(one, served, tensor_parallel, dtype or served.dtype)
        except ValueError as error:
            left_out.append(f"{one.name}: {error}")
            continue
        parameters = found.parameters
        times = {name: parameters.predict_one(*step) for name, step in STEPS.items()}
        known = {name: getattr(parameters, name) for name in _PARAMETERS}
        rows.append({"device": one.name, **times, **known, "provenance": found.provenance})
    rows.sort(key=lambda row: row["decode of 32"])
    if as_json:
        typer.echo(json_text({"model": served.name, "rows": rows, "left_out": left_out}, indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{served.name}, {tensor_parallel} a group: ms a step")
    for column in ("device", *STEPS, *_PARAMETERS, "latency"):
        table.add_column(column, justify="left" if column in ("device", "latency") else "right")
    for row in rows:
        figures = [f"{row[name]:.1f}" for name in STEPS] + [f"{row[name]:.2g}" for name in _PARAMETERS]
        table.add_row(row["device"], *figures, row["provenance"].split(":")[0])
    stdout_console().print(table)
    for line in left_out:
        typer.echo(line)
