"""`batchpilot config`: show a configuration with its defaults filled in, or check a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from batchpilot.configs.checking import check_file, file_kind, load_plain
from batchpilot.configs.tuner_files import SECTION, load_tuner_config, preset, presets, to_yaml
from batchpilot.core.files import json_text

app = typer.Typer(help="Show and check tuner configurations and scenario files.", no_args_is_help=True)

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
