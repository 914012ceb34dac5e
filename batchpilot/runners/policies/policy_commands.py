"""`batchpilot policy`: what a policy file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from batchpilot.core.actions import ActionTable
from batchpilot.core.files import json_text
from batchpilot.core.grids import Grid
from batchpilot.runners.options import JsonOption, reporting_mistakes, stdout_console
from batchpilot.tuners.policy import PolicyFile, read_policy

app = typer.Typer(help="Look into policy files.", no_args_is_help=True)


@app.callback()
def policy() -> None:
    """Look into policy files."""


@app.command()
@reporting_mistakes
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy file.")],
    as_json: JsonOption = False,
) -> None:
    """Check a policy file and print what it is and where it comes from."""
    read = read_policy(file)
    if as_json:
        typer.echo(json_text(described(file, read), indent=2))
    else:
        show(file, read)


def described(path: Path, policy: PolicyFile) -> dict[str, Any]:
    """Everything but the weights, as plain data.

    Args:
        path: where it was read from.
        policy: the file as a server reads it.
    """
    network, description = policy.network, policy.description
    return {
        "file": str(path),
        "size_bytes": policy.size_bytes,
        "sha256": policy.digest,
        "opset": policy.opset,
        "producer": policy.producer,
        "track": description.track,
        "stack": description.stack,
        "decision_interval_ms": description.decision_interval_ms,
        "network": [network.inputs, *(len(biases) for biases in network.biases)],
        "activations": list(network.activations),
        "action_table": description.table.describe(),
        "feature_version": description.feature_version,
        "feature_names": list(description.feature_names),
        "observation_low": list(description.observation_low),
        "observation_high": list(description.observation_high),
        "training": dict(description.training),
    }


def show(path: Path, policy: PolicyFile) -> None:
    """Print what a policy is.

    Args:
        path: where it was read from.
        policy: the file as a server reads it.
    """
    told = described(path, policy)
    table, interval_ms = policy.description.table, policy.description.decision_interval_ms
    interval = "window of any length" if interval_ms is None else f"{interval_ms:g} ms"
    rows = {
        "size": f"{policy.size_bytes:,} bytes, opset {policy.opset}, written by {policy.producer}",
        "sha256": policy.digest,
        "track": f"{told['track']}, {table.mode} actions every {interval}",
        "starts at": str(table.base),
        "network": " -> ".join(map(str, told["network"])) + f" ({', '.join(told['activations'])})",
        "features": f"version {told['feature_version']}, {len(told['feature_names'])} a window, "
        f"windows seen at once: {told['stack']}",
        "trained range": "recorded" if told["observation_low"] else "not recorded",
        **{f"moves {grid.field}": _moves(table, grid) for grid in table.grids},
        **{f"training {key}": _short(value) for key, value in told["training"].items()},
    }
    grid = Table(title=str(path), show_header=False)
    for name, value in rows.items():
        grid.add_row(name, value)
    stdout_console().print(grid)


def _moves(table: ActionTable, grid: Grid) -> str:
    described = next(one for one in table.describe()["grids"] if one["field"] == grid.field)
    if "choices" in described:
        return ", ".join(described["choices"])
    notches = ["off" if value is None else f"{value:g}" for value in described["notches"]]
    unit = " times the TPOT target" if grid.times_tpot_target else ""
    by = f", by {', '.join(map(str, table.moves))} notches" if table.mode == "relative" else ""
    return f"{notches[0]} to {notches[-1]}{unit} in {len(notches)} notches{by}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json_text(value)
    return text if len(text) <= 300 else f"{text[:297]}..."
