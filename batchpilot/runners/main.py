"""The `batchpilot` command."""

from __future__ import annotations

from typing import Annotated

import typer

import batchpilot
from batchpilot.runners import config_commands
from batchpilot.runners.calibration.command import calibrate
from batchpilot.runners.catalogue import build_command
from batchpilot.runners.compiling import tell_of_compiling
from batchpilot.runners.diagnose_command import diagnose_command
from batchpilot.runners.doctor_command import doctor
from batchpilot.runners.fleet.command import fleet
from batchpilot.runners.http.gateway.command import gateway
from batchpilot.runners.http.load.command import load
from batchpilot.runners.http.serve.command import serve
from batchpilot.runners.leaderboard.command import leaderboard
from batchpilot.runners.leaderboard.compare_command import compare_command
from batchpilot.runners.list_command import list_command
from batchpilot.runners.planning.command import plan_command
from batchpilot.runners.policies import policy_commands
from batchpilot.runners.policies.dataset_command import dataset
from batchpilot.runners.policies.export_command import export
from batchpilot.runners.policies.train_command import train
from batchpilot.runners.scaling.export_command import export_scaler
from batchpilot.runners.simulate_command import simulate
from batchpilot.runners.submissions.command import submit, write_standings
from batchpilot.runners.torch.validate_command import validate
from batchpilot.runners.tuning.command import tune

app = typer.Typer(
    name="batchpilot",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"batchpilot {batchpilot.__version__}")
        raise typer.Exit


@app.callback()
def command(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Finds, and keeps finding, the batching limits an LLM inference server should run with."""


app.command()(leaderboard)
app.command()(simulate)
app.command(name="compare")(compare_command)
app.command()(calibrate)
app.command()(validate)
app.command(name="plan")(plan_command)
app.command()(fleet)
app.command()(tune)
app.command()(train)
app.command()(export)
app.command()(dataset)
app.command()(submit)
app.command(name="standings")(write_standings)
app.command()(serve)
app.command()(gateway)
app.command()(load)
app.command()(doctor)
app.command(name="diagnose")(diagnose_command)
app.command(name="export-scaler")(export_scaler)
app.command(name="list")(list_command)
app.add_typer(policy_commands.app, name="policy")
app.add_typer(config_commands.app, name="config")
app.add_typer(build_command.app, name="catalogue")


def run() -> None:
    """The command as a process of its own."""
    tell_of_compiling(lambda text: typer.echo(text, err=True))
    app(prog_name="batchpilot")


if __name__ == "__main__":
    run()
