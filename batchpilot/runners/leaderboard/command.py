"""`batchpilot leaderboard`: which strategy wins where, as a table on the terminal and files in a folder."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from batchpilot.configs.fleet_scenario import SUITE as FLEETS
from batchpilot.configs.recordings import is_recorded
from batchpilot.configs.scenario import Scenario
from batchpilot.core.files import json_text
from batchpilot.core.limits import TRACKS, Limits
from batchpilot.envs.backends import SIMULATED
from batchpilot.runners.chosen import first_seed, is_of_fleets, left_out_notes, scenarios_of, suite_names
from batchpilot.runners.completion import completing
from batchpilot.runners.leaderboard.board import Leaderboard, Outcome
from batchpilot.runners.leaderboard.evaluation import Row
from batchpilot.runners.leaderboard.regression import load_baseline, regression_grid, regressions, save_baseline
from batchpilot.runners.leaderboard.running import refuse_to_overwrite, run_with_progress
from batchpilot.runners.leaderboard.strategies import STATIC_BEST
from batchpilot.runners.options import (
    CatalogueOption,
    ClusterOption,
    ColumnsOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    ParametersOption,
    PrefixCacheOption,
    TensorParallelOption,
    TpotOption,
    TraceFormatOption,
    TtftOption,
    refuse,
    reporting_mistakes,
    stdout_console,
)
from batchpilot.runners.pasted import show_pasted
from batchpilot.runners.report.ranking import ranks_nobody
from batchpilot.runners.report.summary import summarise, summarise_families, write_csv
from batchpilot.runners.report.tables import leaderboard_tables, short_tables, tables
from batchpilot.runners.report.verdict import verdict
from batchpilot.runners.selection import Changes, find_tuner_config, parse_limits, replay_of
from batchpilot.runners.stated import stated_grid
from batchpilot.runners.torch.backends import (
    BackendOption,
    chosen_server,
    shown_calibration,
    start_backend,
)
from batchpilot.runners.torch.leaderboard import MEASURED, SEARCHED, TorchLeaderboard, on_engine
from batchpilot.runners.torch.options import KvOption, ThreadsOption


@reporting_mistakes
def leaderboard(
    context: typer.Context,
    suite_name: Annotated[
        str,
        typer.Option("--suite", help=f"Scenarios: {', '.join(suite_names())}.", autocompletion=completing("suites")),
    ] = "quick",
    scenarios: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            help="These scenarios (name or file) instead of a suite.",
            autocompletion=completing("scenarios"),
        ),
    ] = None,
    track: Annotated[str, typer.Option(help=f"Limits that may be set: {', '.join(TRACKS)}.")] = "guarded",
    tuners: Annotated[
        str,
        typer.Option(
            help="Strategies, separated by commas: names, FILE.py:CLASS, policy:FILE.onnx, default.",
            autocompletion=completing("tuners"),
        ),
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each scenario.")] = 3,
    seed: Annotated[int, typer.Option("--seed", help="The first seed, counted within a suite's own.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, or workers of the cluster.")] = 1,
    cluster: ClusterOption = None,
    config: Annotated[str | None, typer.Option(help="Tuner configuration: a preset or a file.")] = None,
    traces: Annotated[
        Path | None, typer.Option(help="Folder of the published traces that some scenarios replay a part of.")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Replay this trace instead of a suite.")] = None,
    trace_format: TraceFormatOption = None,
    columns: ColumnsOption = None,
    rate: Annotated[float, typer.Option(help="Replay the trace this many times as fast.")] = 1.0,
    start_s: Annotated[float, typer.Option(help="Start of the part of the trace that is replayed.")] = 0.0,
    duration_s: Annotated[float | None, typer.Option(help="Its length; the rest when left out.")] = None,
    skip_bad_rows: Annotated[bool, typer.Option(help="Count malformed rows of the trace instead of stopping.")] = False,
    device: DeviceOption = None,
    catalogue: CatalogueOption = None,
    model: ModelOption = None,
    tensor_parallel: TensorParallelOption = None,
    backend: BackendOption = SIMULATED,
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    kv_capacity_tokens: KvOption = None,
    parameters: ParametersOption = None,
    ttft_ms: TtftOption = None,
    tpot_ms: TpotOption = None,
    prefix_cache: PrefixCacheOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results; reports/SUITE-TRACK when left out.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with what an earlier run left in the folder.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace the results in the folder.")] = False,
    baseline: Annotated[
        Path | None, typer.Option(help="Hold the figures against this baseline; exit status 1 when the gate fails.")
    ] = None,
    save: Annotated[Path | None, typer.Option("--save-baseline", help="Write the figures as a baseline.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Print every table, not only the first two.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Rank strategies on the same requests, against references; write results.csv, summary.csv and report.html."""
    named_tuners = tuple(name.strip() for name in tuners.split(",") if name.strip())
    if is_of_fleets(suite_name, scenarios):
        from batchpilot.runners.fleet import leaderboard_command as fleets

        refuse(context, "for fleets", *fleets.ENGINE_ONLY)
        folder = out or Path("reports") / FLEETS
        refuse_to_overwrite(folder, resume or overwrite)
        of_fleets = fleets.board_of(scenarios, named_tuners, seeds, seed)
        fleets.run_fleets(of_fleets, folder, jobs=jobs, cluster=cluster, resume=resume, as_json=as_json, full=full)
        return
    if trace is None:
        refuse(context, "without --trace", "trace_format", "columns", "rate", "start_s", "duration_s", "skip_bad_rows")
    else:
        refuse(context, "with --trace", "suite_name", "scenarios", "traces")
    if scenarios:
        refuse(context, "with --scenario", "suite_name")
    if resume and overwrite:
        raise ValueError("--resume and --overwrite are both given; results are either kept or replaced")
    notes: list[str] = []
    server = chosen_server(
        backend,
        model=model,
        device=device,
        dtype=dtype,
        threads=threads,
        kv_capacity_tokens=kv_capacity_tokens,
        simulated_only={
            "--tensor-parallel": tensor_parallel is not None,
            "--jobs above 1": jobs > 1,
            "--cluster": cluster is not None,
        },
    )
    stored = None if baseline is None else load_baseline(baseline)
    if trace is not None:
        replay: dict[str, Any] = {"format": trace_format, "columns": columns, "rate": rate, "start_s": start_s}
        replay |= {"duration_s": duration_s, "skip_bad_rows": skip_bad_rows}
        named = [replay_of(trace, **replay)]
    else:
        named = scenarios_of(suite_name, scenarios, traces)
    if traces is not None and not any(is_recorded(one) for one in named):
        refuse(context, "where no scenario replays a published trace", "traces")
    changes = Changes(device, model, tensor_parallel, dtype, parameters) if server is None else Changes()
    changes = replace(changes, ttft_ms=ttft_ms, tpot_ms=tpot_ms, prefix_cache=prefix_cache)
    chosen: list[Scenario] = [changes.of(one) for one in named]
    notes += left_out_notes(chosen)
    board = Leaderboard(
        tuple(one for one in chosen if not one.needs_trace),
        track,
        named_tuners,
        seeds,
        first_seed(suite_name, seed, seeds, whole_suite=trace is None and not scenarios),
        find_tuner_config(config),
    )
    folder = out or Path("reports") / f"{_run_name(trace, scenarios, suite_name)}-{track}"
    refuse_to_overwrite(folder, resume or overwrite)
    started = time.monotonic()
    if server:
        kept = folder / "engine.json"
        board = on_engine(
            board,
            lambda: start_backend(
                server, parameters=parameters, remembered=kept, resume=resume, show=shown_calibration
            ),
        )
        notes += [MEASURED, SEARCHED] if STATIC_BEST in board.strategies else [MEASURED]
    outcome = run_with_progress(board, folder, jobs, cluster, resume)
    summary = summarise(outcome.rows)
    notes += [f"Left out: {error}." for error in outcome.failed.values()]
    notes += [*too_long_notes(outcome.rows), *ranks_nobody(outcome.rows)]
    _write(folder, board, outcome, summary, notes)
    if save is not None:
        save_baseline(save, summary, outcome.origin)
    worse = [] if stored is None else regressions(summary, stored)
    if as_json:
        for error in outcome.failed.values():
            typer.secho(f"left out: {error}", err=True, fg=typer.colors.YELLOW)
        typer.echo(json_text(summary, indent=1))
    else:
        _show(outcome.rows, summary, full=full)
        console = stdout_console()
        for note in notes:
            console.print(note)
        spent = time.monotonic() - started
        console.print(f"{len(outcome.rows)} runs in {spent:.0f} s: {folder}/results.csv, summary.csv, report.html")
    if worse:
        for table in tables(regression_grid(worse)):
            Console(stderr=True, width=120).print(table)
        raise typer.Exit(1)
    if baseline is not None and not as_json:
        typer.echo(f"no regression against {baseline}")


def _show(rows: Sequence[Row], summary: Sequence[Row], *, full: bool) -> None:
    console = stdout_console()
    for sentence in verdict(summary):
        console.print(sentence, style="bold", highlight=False)
    console.print(*tables(stated_grid(rows, latency=full)))
    for table in leaderboard_tables(summary, summarise_families(rows)) if full else short_tables(summary):
        console.print(table)
    if len({row["scenario"] for row in rows}) == 1:
        best = next((row for row in summary if not row["is_reference"]), None)
        ended = next((row["limits"] for row in rows if best and row["tuner"] == best["tuner"] and row["limits"]), None)
        if best is not None and ended is not None:
            console.print(f"What {best['tuner']} ended with, to paste:", highlight=False)
            show_pasted(parse_limits(ended))


def _run_name(trace: Path | None, scenarios: list[str] | None, suite_name: str) -> str:
    """What the folder of the results is called after: what ran."""
    if trace is not None:
        return trace.stem
    if scenarios:
        return Path(scenarios[0]).stem if len(scenarios) == 1 else f"{len(scenarios)}-scenarios"
    return suite_name


def _write(folder: Path, board: Leaderboard, outcome: Outcome, summary: list[dict[str, Any]], notes: list[str]) -> None:
    from batchpilot.runners.report.writing import write_report  # matplotlib would slow down every command

    write_csv(folder / "results.csv", outcome.rows)
    write_csv(folder / "summary.csv", summary)
    write_report(
        folder / "report.html",
        title=f"Which batching strategy keeps its promises? Track {board.track}",
        rows=outcome.rows,
        summary=summary,
        curves=outcome.curves,
        provenance=outcome.origin | _engine(board) | {"command": shlex.join(["batchpilot", *sys.argv[1:]])},
        notes=[*notes, *_best_notes(board, outcome)],
    )


def _engine(board: Leaderboard) -> dict[str, str]:
    """What ran, where that is not the simulation."""
    return dict(board.backend.origin) if isinstance(board, TorchLeaderboard) else {}


def too_long_notes(rows: Sequence[Row]) -> list[str]:
    """A sentence for each scenario in which requests failed whatever the strategy: no engine could have served them.

    Args:
        rows: result rows.
    """
    failed: dict[str, int] = {}
    requests: dict[str, int] = {}
    for row in rows:
        name = row["scenario"]
        failed[name] = min(failed.get(name, row["failed"]), row["failed"])
        requests[name] = max(requests.get(name, 0), row["requests"])
    return [
        f"{name}: at least {count} of {requests[name]} requests failed under every strategy: longer than the model or "
        "its KV cache allows."
        for name, count in failed.items()
        if count
    ]


def _best_notes(board: Leaderboard, outcome: Outcome) -> list[str]:
    """What `static-best` was in each scenario at the first seed, so that a reader can try it."""
    found = []
    for chosen in board.scenarios:
        best = outcome.best.get((chosen.name, board.first_seed))
        if best is not None:
            limits = ", ".join(f"{name} {value}" for name, value in Limits.from_dict(best).in_force().items())
            found.append(f"static-best on {chosen.name} (seed {board.first_seed}): {limits}.")
    return found
