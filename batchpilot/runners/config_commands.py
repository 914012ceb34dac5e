"""`batchpilot config`: show a configuration with its defaults filled in, or check a file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
import yaml

from batchpilot.configs.checking import check_file, file_kind, load_plain
from batchpilot.configs.tuner_files import SECTION, load_tuner_config, preset, presets, to_yaml
from batchpilot.core.files import json_text
from batchpilot.core.limits import Limits
from batchpilot.core.names import lookup
from batchpilot.runners.selection import looks_like_file, parse_limits
from batchpilot.runners.tuning.files import limits_yaml
from batchpilot.serving.formats.flags import SERVERS, Started, named_in
from batchpilot.serving.formats.flags.manifests import MANIFESTS

app = typer.Typer(
    help="Show and check configurations; read and write the limits that servers start with.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


@app.command()
def show(
    source: Annotated[
        str, typer.Argument(metavar="[PRESET|FILE]", help=f"A preset ({', '.join(presets())}) or a YAML file.")
    ] = "default",
    as_json: Json = False,
) -> None:
    """Print a configuration with every default filled in, as a YAML file to copy and edit."""
    try:
        typer.echo(_as_json(source) if as_json else _as_yaml(source), nl=as_json)
    except (ValueError, OSError) as error:
        typer.secho(str(error), err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from None


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A tuner configuration or a scenario file.")],
    as_json: Json = False,
) -> None:
    """Check a file; exit status 1 when it is not valid, 0 otherwise, warnings or not."""
    check = check_file(file)
    if as_json:
        report = {"file": str(check.path), "kind": check.kind, "valid": check.valid}
        typer.echo(json_text({**report, "errors": check.errors, "warnings": check.warnings}, indent=2))
    else:
        for message in check.errors.values():
            typer.secho(f"error: {message}", err=True, fg=typer.colors.RED)
        for message in check.warnings:
            typer.secho(f"warning: {message}", err=True, fg=typer.colors.YELLOW)
        if check.valid:
            typer.echo(f"{check.path}: a valid {check.kind} configuration")
    if not check.valid:
        raise typer.Exit(1)


@app.command()
def limits(
    command: Annotated[
        str, typer.Argument(metavar="COMMAND|FILE", help="A server's command line in quotes, or its YAML of options.")
    ],
    server: Annotated[str | None, typer.Option(help=f"Whose FILE it is: {', '.join(SERVERS)}.")] = None,
    as_json: Json = False,
) -> None:
    """Print the limits that a server is started with, as a file for `--limits`."""
    try:
        started = _started(command, server)
    except (ValueError, OSError) as error:
        typer.secho(str(error), err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from None
    if as_json:
        told = {"server": started.server, "model": started.model, "limits": started.limits.to_dict()}
        typer.echo(json_text({**told, "assumed": started.assumed, "facts": started.facts}, indent=2))
        return
    assumed = [f"{started.server} without a flag: {', '.join(started.assumed)}"] if started.assumed else []
    facts = [f"{name}: {value}" for name, value in started.facts.items()]
    typer.echo(limits_yaml(started.limits, [*assumed, *facts]), nl=False)


@app.command()
def flags(
    limits: Annotated[str, typer.Argument(metavar="LIMITS", help="As in --limits: batch_size=64, or a file.")],
    server: Annotated[str | None, typer.Option(help=f"For whom: {', '.join(SERVERS)}.")] = None,
    command: Annotated[
        str | None, typer.Option("--command", help="The command line as it is, in quotes; its limits are replaced.")
    ] = None,
    manifest: Annotated[
        str | None, typer.Option("--as", help=f"A patch instead of flags: {', '.join(MANIFESTS)}.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the service, container or worker in the patch.")] = None,
) -> None:
    """Print limits as a server's flags, or as a patch of the manifest that starts it."""
    try:
        typer.echo(_flags(parse_limits(limits), server, command, manifest, name))
    except (ValueError, OSError) as error:
        typer.secho(str(error), err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from None


def _started(command: str, name: str | None) -> Started:
    if looks_like_file(command) and len(command.split()) == 1:
        return lookup(SERVERS, name or "vllm", "server").read_file(Path(command))
    return (lookup(SERVERS, name, "server") if name else named_in(command)).read(command)


def _flags(limits: Limits, name: str | None, command: str | None, manifest: str | None, part: str | None) -> str:
    if manifest is not None and command is None:
        raise ValueError("--as needs --command: a patch replaces the whole command line, its other flags as they are")
    server = lookup(SERVERS, name, "server") if name else named_in(command) if command else SERVERS["vllm"]
    missing = server.missing(limits)
    if missing:
        typer.secho(f"{server.name} has no flag for {', '.join(missing)}", err=True, fg=typer.colors.YELLOW)
    if command is None:
        return shlex.join(server.flags(limits))
    started = server.read(command)
    if manifest is None:
        return shlex.join(server.command(started, limits))
    patch = lookup(MANIFESTS, manifest, "manifest")(part or server.name, server, started, limits)
    return yaml.safe_dump(patch, sort_keys=False).rstrip()


def _is_file(source: str) -> bool:
    path = Path(source)
    return path.is_file() or path.suffix in (".yaml", ".yml") or len(path.parts) > 1


def _as_yaml(source: str) -> str:
    if not _is_file(source):
        return to_yaml(preset(source))
    if file_kind(source) == "tuner":
        return to_yaml(load_tuner_config(source))
    return yaml.safe_dump(load_plain(source), sort_keys=False)


def _as_json(source: str) -> str:
    return json_text(load_plain(source) if _is_file(source) else {SECTION: preset(source).to_dict()}, indent=2)
