"""`batchpilot doctor`: what of this machine batchpilot can work with, found out without loading any of it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from batchpilot.configs.catalogue import device as find_device
from batchpilot.configs.catalogue import model as find_model
from batchpilot.core.files import json_text
from batchpilot.engines import detect_device
from batchpilot.engines.detection.found import DetectedDevice, catalogued
from batchpilot.runners.completion import completing
from batchpilot.runners.options import JsonOption, reporting_mistakes, stdout_console
from batchpilot.serving.adapters.versions import KNOWN_VERSIONS, check_installed, installed_version
from batchpilot.serving.adapters.vllm_refusals import check_answerable


@reporting_mistakes
def doctor(
    model: Annotated[
        str | None,
        typer.Option(help="Say what it would begin with on this device.", autocompletion=completing("models")),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Of the catalogue, instead of the one here.", autocompletion=completing("devices")),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Prompt and output of a request.")] = 1024,
    as_json: JsonOption = False,
) -> None:
    """Say which device is here and whether the adapters know the servers installed; exit 1 where one does not."""
    found = detect_device()
    troubles = check_installed()
    if "vllm" in troubles and troubles["vllm"] is None:
        try:
            check_answerable(installed_version("vllm") or "")
        except RuntimeError as error:
            troubles["vllm"] = str(error)
    several = f"{found.count} x " if found.count > 1 else ""
    told = {"device": f"{several}{found.model} ({found.kind})"} | {
        server: (troubles[server] or f"{installed_version(server)}: known to its adapter")
        if server in troubles
        else "not installed"
        for server in KNOWN_VERSIONS
    }
    if model is not None:
        told |= _beginning(found, device, model, tokens)
    if as_json:
        typer.echo(json_text(told, indent=2))
    else:
        table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
        for name, words in told.items():
            table.add_row(name, words)
        stdout_console().print(table)
    raise typer.Exit(any(troubles.values()))


def _beginning(found: DetectedDevice, named: str | None, served: str, tokens: int) -> dict[str, str]:
    """A first batch size and step latency of a model, by the catalogue."""
    from batchpilot.engines.first_size import first_size
    from batchpilot.latency.model.registry import find_latency

    model = find_model(served)
    entry = catalogued(found.kind, found.model) if named is None else find_device(named)
    if entry is None:
        return {"first batch size": f"unknown: {found.model} is not in the catalogue; name one with --device"}
    size = first_size(entry, model, tokens, dtype=model.dtype)
    latency = find_latency(entry, model, dtype=model.dtype)
    decode_ms = latency.parameters.predict_one(size.batch_size, size.batch_size, size.batch_size * tokens / 2)
    return {
        "first batch size": f"{size.batch_size} of {model.name} on {entry.name}: memory holds {size.from_memory} "
        f"requests of {tokens:,} tokens, arithmetic is no bound below {size.from_compute}",
        "its decode step": f"{decode_ms:.1f} ms; {latency.provenance}",
    }
