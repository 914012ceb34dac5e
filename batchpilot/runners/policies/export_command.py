"""`batchpilot export`: a training folder in, one checked policy file out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchpilot.core.files import json_text
from batchpilot.runners.options import JsonOption, reporting_mistakes
from batchpilot.runners.policies.policy_commands import described, show


@reporting_mistakes
def export(
    training: Annotated[Path, typer.Argument(metavar="TRAINING_FOLDER", help="What `batchpilot train` wrote.")],
    out: Annotated[Path, typer.Option(help="The policy file to write.")] = Path("policy.onnx"),
    overwrite: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a trained policy as one file that a server can load, after checking that it decides alike."""
    from batchpilot.agents.export.export import export_policy

    exported = export_policy(training, out, overwrite=overwrite)
    if as_json:
        typer.echo(json_text({**described(exported.path, exported.policy), "checked": exported.checked}, indent=2))
    else:
        show(exported.path, exported.policy)
        typer.echo(f"decides as the trained policy does on {exported.checked:,} observations")
