"""`batchpilot doctor`: what of this machine batchpilot can work with, found out without loading any of it."""

from __future__ import annotations

import typer
from rich import box
from rich.table import Table

from batchpilot.core.files import json_text
from batchpilot.engines import detect_device
from batchpilot.runners.options import JsonOption, reporting_mistakes, stdout_console
from batchpilot.serving.adapters.versions import KNOWN_VERSIONS, check_installed, installed_version
from batchpilot.serving.adapters.vllm_refusals import check_answerable


@reporting_mistakes
def doctor(as_json: JsonOption = False) -> None:
    """Say which device is here and whether the adapters know the servers installed; exit 1 where one does not."""
    device = detect_device()
    troubles = check_installed()
    if "vllm" in troubles and troubles["vllm"] is None:
        try:
            check_answerable(installed_version("vllm") or "")
        except RuntimeError as error:
            troubles["vllm"] = str(error)
    told = {"device": f"{device.model} ({device.kind})"} | {
        server: (troubles[server] or f"{installed_version(server)}: known to its adapter")
        if server in troubles
        else "not installed"
        for server in KNOWN_VERSIONS
    }
    if as_json:
        typer.echo(json_text(told, indent=2))
    else:
        table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
        for name, words in told.items():
            table.add_row(name, words)
        stdout_console().print(table)
    raise typer.Exit(any(troubles.values()))
