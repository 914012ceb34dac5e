"""`batchpilot tune --objective A,B`: what more of one costs of the other."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from batchpilot.core.files import json_text
from batchpilot.core.provenance import provenance
from batchpilot.runners.options import stdout_console
from batchpilot.runners.progress import ToldProgress
from batchpilot.runners.report.tables import tables
from batchpilot.runners.tuning.bench import SimulatedBench
from batchpilot.runners.tuning.front import UNABLE, aims_of, found_front, search_front
from batchpilot.runners.tuning.front_page import front_grid, write_front
from batchpilot.runners.tuning.search import Search
from batchpilot.tuners.bayesian.studies import redacted


def tune_front(
    search: Search,
    bench: SimulatedBench,
    unseen_bench: SimulatedBench,
    unseen: Sequence[int],
    *,
    objectives: str,
    title: str,
    served: Mapping[str, str],
    folder: Path,
    as_json: bool,
) -> None:
    """Search for the front, write it down and tell it.

    Args:
        search: what is searched.
        bench: what trials run on.
        unseen_bench: what unseen seeds run on.
        unseen: seeds that the study does not see.
        objectives: names, separated by commas.
        title: of the report.
        served: promise, load and server in words.
        folder: for report.html and results.json.
        as_json: print the results instead of the table.

    Raises:
        ValueError: no such objective, a sampler that knows one only, or no trial keeps every constraint.
    """
    aims = aims_of(objectives)
    if search.sampler in UNABLE:
        raise ValueError(f"--sampler {search.sampler} knows one objective only; take tpe, gp or random")
    try:
        with ToldProgress() as progress:
            bar = progress.add_task("tuning", total=search.trials)

            def advance(told: int, on_front: int) -> None:
                progress.update(bar, completed=told, description=f"{on_front} on the front")

            exploration = search_front(search, bench, aims, advance)
    except KeyboardInterrupt:
        where = redacted(search.storage)
        typer.secho(f"stopped: finished trials are kept in {where}; --resume goes on", err=True, fg="yellow")
        raise typer.Exit(130) from None
    tried = found_front(search, exploration, aims, unseen_bench, unseen, bench.tpot_ms(search.seeds[0]))
    origin = provenance(search.sampler_seed, dict(search.settings)) | {
        **served,
        "seeds": list(search.seeds),
        "unseen_seeds": list(unseen),
        "study": search.study,
        "command": shlex.join(["batchpilot", *(redacted(part) for part in sys.argv[1:])]),
    }
    told, results = write_front(folder, title, exploration, tried, aims, origin)
    if as_json:
        typer.echo(json_text(results, indent=1))
        return
    console = stdout_console()
    typer.secho(told, bold=True)
    typer.echo("; ".join(f"{name} {value}" for name, value in served.items()))
    for table in tables(front_grid(tried, aims)):
        console.print(table)
    typer.echo(f"{folder}/report.html, results.json; study {search.study}")
