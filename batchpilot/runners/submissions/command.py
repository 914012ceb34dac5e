"""`batchpilot submit` judges a strategy and writes its record; `batchpilot standings` the page of all records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchpilot.core.files import write_atomic
from batchpilot.core.limits import TRACKS
from batchpilot.runners.leaderboard.jobs import Runnable
from batchpilot.runners.options import JsonOption, reporting_mistakes
from batchpilot.runners.progress import ToldProgress
from batchpilot.runners.submissions.judging import Entry, judge
from batchpilot.runners.submissions.page import read_records, standings
from batchpilot.runners.submissions.record import write_record

KEPT = Path("reports/submissions")
"""Where finished runs are kept."""


@reporting_mistakes
def submit(
    strategy: Annotated[
        str, typer.Argument(metavar="POLICY", help="A policy file, or what `leaderboard --tuners` takes.")
    ],
    track: Annotated[
        str | None, typer.Option(help=f"Where it competes: {', '.join(TRACKS)}; a policy knows its own.")
    ] = None,
    suite: Annotated[str, typer.Option(help="What it is judged on.")] = "held-out",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each scenario, the first of the suite's block.")] = 3,
    name: Annotated[str | None, typer.Option(help="What the page calls it; the file's name when left out.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The record; leaderboard/records/TRACK-SUITE-NAME.json when left out.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a record that is there.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Check a policy, judge it on runs that no training may use, and write one record that can be computed again."""
    with ToldProgress() as progress:
        bar = progress.add_task("judging", total=None)

        def advance(task: Runnable, from_disk: bool) -> None:
            progress.update(bar, advance=1, description=f"{task.scenario.name} seed {task.seed}")

        record = judge(Entry(strategy, track, suite, seeds, name), KEPT, jobs=jobs, on_done=advance)
    file = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in record.name)
    path = out or Path("leaderboard/records") / f"{record.track}-{record.suite}-{file}.json"
    write_record(path, record, overwrite=overwrite)
    if as_json:
        typer.echo(record.text(), nl=False)
        return
    score = record.figures.normalised
    told = "no run has room between the default and hindsight" if score.value is None else f"score {score.value:.3f}"
    if score.low is not None and score.high is not None:
        told += f" [{score.low:.3f}, {score.high:.3f}]"
    typer.echo(
        f"{record.name} in {record.id}: {told}, mean goodput share {record.figures.mean_goodput:.3f}, worst scenario "
        f"{record.figures.worst_scenario}; {path}"
    )


@reporting_mistakes
def write_standings(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of records.")] = Path("leaderboard/records"),
    out: Annotated[Path, typer.Option(help="The page, Markdown; it is replaced.")] = Path("leaderboard/README.md"),
) -> None:
    """Write the page that ranks every record of a folder; nothing is run, nothing fetched."""
    records = read_records(folder)
    write_atomic(out, standings(records))
    typer.echo(f"{len(records)} records: {out}")
