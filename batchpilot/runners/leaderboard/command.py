"""`batchpilot leaderboard`: which strategy wins where, as a table on the terminal and files in a folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from batchpilot.configs.fleet_scenario import SUITE as FLEETS
from batchpilot.core.limits import TRACKS
from batchpilot.envs.backends import SIMULATED
from batchpilot.runners.chosen import first_seed, is_of_fleets, left_out_notes
from batchpilot.runners.leaderboard.asked import Source, check_options, simulated_only
from batchpilot.runners.leaderboard.board import Leaderboard
from batchpilot.runners.leaderboard.options import (
    BaselineOption,
    SaveBaselineOption,
    ScenariosOption,
    SuiteOption,
    TracesOption,
    TunersOption,
)
from batchpilot.runners.leaderboard.output import Result, show_gate
from batchpilot.runners.leaderboard.regression import load_baseline, regressions, save_baseline
from batchpilot.runners.leaderboard.running import refuse_to_overwrite, run_with_progress
from batchpilot.runners.options import (
    CatalogueOption,
    ClusterOption,
    ColumnsOption,
    ConfigOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    ParametersOption,
    PrefixCacheOption,
    RateOption,
    TensorParallelOption,
    TpotOption,
    TraceFormatOption,
    TtftOption,
    refuse,
    reporting_mistakes,
)
from batchpilot.runners.selection import Changes, find_tuner_config
from batchpilot.runners.torch.backends import BackendOption, chosen_server
from batchpilot.runners.torch.leaderboard import notes_on_engine, started_on
from batchpilot.runners.torch.options import KvOption, ThreadsOption


@reporting_mistakes
def leaderboard(
    context: typer.Context,
    suite_name: SuiteOption = "quick",
    scenarios: ScenariosOption = None,
    track: Annotated[str, typer.Option(help=f"Limits that may be set: {', '.join(TRACKS)}.")] = "guarded",
    tuners: TunersOption = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each scenario.")] = 3,
    seed: Annotated[int, typer.Option("--seed", help="The first seed, counted within a suite's own.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, or workers of the cluster.")] = 1,
    cluster: ClusterOption = None,
    config: ConfigOption = None,
    traces: TracesOption = None,
    trace: Annotated[Path | None, typer.Option(help="Replay this trace instead of a suite.")] = None,
    trace_format: TraceFormatOption = None,
    columns: ColumnsOption = None,
    rate: RateOption = 1.0,
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
    baseline: BaselineOption = None,
    save: SaveBaselineOption = None,
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
    check_options(context)
    changes = Changes(device, model, tensor_parallel, dtype, parameters, ttft_ms, tpot_ms, prefix_cache)
    server = chosen_server(backend, changes, threads, kv_capacity_tokens, simulated_only(context))
    stored = None if baseline is None else load_baseline(baseline)
    how: dict[str, Any] = {"format": trace_format, "columns": columns, "rate": rate, "start_s": start_s}
    how |= {"duration_s": duration_s, "skip_bad_rows": skip_bad_rows}
    source = Source(suite_name, scenarios, traces, trace, how)
    changes = changes if server is None else changes.without_hardware()
    chosen = [changes.of(one) for one in source.named(context)]
    known = tuple(one for one in chosen if not one.needs_trace)
    first = first_seed(suite_name, seed, seeds, whole_suite=source.is_whole_suite)
    board = Leaderboard(known, track, named_tuners, seeds, first, find_tuner_config(config))
    folder = out or Path("reports") / f"{source.label}-{track}"
    refuse_to_overwrite(folder, resume or overwrite)
    started, notes = time.monotonic(), left_out_notes(chosen)
    if server:
        board = started_on(server, board, folder, parameters, resume=resume)
        notes += notes_on_engine(board)
    result = Result.of(board, run_with_progress(board, folder, jobs, cluster, resume), notes)
    result.write(folder)
    if save is not None:
        save_baseline(save, result.summary, result.outcome.origin)
    worse = [] if stored is None else regressions(result.summary, stored)
    if as_json:
        result.show_json()
    else:
        result.show(folder, started, full=full)
    if baseline is not None:
        show_gate(worse, baseline, quiet=as_json)
