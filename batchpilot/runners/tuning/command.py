"""`batchpilot tune`: the best fixed limits for a scenario, a trace or a torch engine, by Bayesian optimisation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from batchpilot.configs.scenario import Scenario
from batchpilot.core.limits import TRACKS
from batchpilot.core.names import lookup
from batchpilot.envs.backends import SIMULATED
from batchpilot.envs.scenarios import prepare
from batchpilot.latency.model.parameter_file import read_parameters
from batchpilot.runners.completion import completing
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
    was_given,
)
from batchpilot.runners.selection import Changes, find_scenario, replay_of
from batchpilot.runners.torch.backends import BackendOption, chosen_server
from batchpilot.runners.torch.options import KvOption, ThreadsOption
from batchpilot.runners.tuning.bench import ENERGY, OBJECTIVES
from batchpilot.runners.tuning.benches import simulated_benches, torch_benches
from batchpilot.runners.tuning.live.command import Asked, tune_server
from batchpilot.runners.tuning.live.study import Bounds
from batchpilot.servers import KINDS as SERVERS
from batchpilot.tuners.bayesian import SAMPLERS, make_sampler

_TORCH_SCENARIO = "quick-chat"

MOST_STARTS = 16
"""Of a server, where --trials does not say."""

_SEARCHED = (
    *(
        "backend",
        "sampler",
        "objective",
        "min_attainment",
        "max_memory",
        "max_refused",
        "prior",
        "seeds",
        "check_seeds",
        "grid",
        "jobs",
        "cluster",
    ),
    *("storage", "device", "catalogue", "model", "tensor_parallel", "dtype", "threads", "kv_capacity_tokens"),
    *("parameters", "requests"),
)
"""Options of a search on an engine of ours."""


@reporting_mistakes
def tune(
    context: typer.Context,
    scenario_name: Annotated[
        str | None,
        typer.Option("--scenario", help="A scenario's name or file.", autocompletion=completing("scenarios")),
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Replay this trace instead.")] = None,
    trace_format: TraceFormatOption = None,
    columns: ColumnsOption = None,
    rate: Annotated[float, typer.Option(help="Replay the trace this many times as fast.")] = 1.0,
    start_s: Annotated[float, typer.Option(help="Start of the part of the trace that is tuned on.")] = 0.0,
    duration_s: Annotated[
        float | None, typer.Option(help="Its length; the limits are checked on as long a part after it.")
    ] = None,
    backend: BackendOption = SIMULATED,
    track: Annotated[str, typer.Option(help=f"Limits that may move: {', '.join(TRACKS)}.")] = "limits",
    trials: Annotated[int, typer.Option(min=1, help="Trials in the study, those of earlier runs included.")] = 60,
    sampler: Annotated[str, typer.Option(help=f"Who proposes: {', '.join(SAMPLERS)}.")] = "tpe",
    objective: Annotated[
        str,
        typer.Option(
            help=f"What is maximised: {', '.join(OBJECTIVES)}. Several, separated by commas, for what more of one "
            "costs of another; beside these ttft-p95 and refused, which are minimised."
        ),
    ] = "goodput",
    min_attainment: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of requests within SLO that the best must reach.")
    ] = 0.0,
    max_memory: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the memory that the best may use on average.")
    ] = 1.0,
    max_refused: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the requests that the best may refuse.")
    ] = 1.0,
    prior: Annotated[
        Path | None,
        typer.Option(help="Step latency as `calibrate --out` wrote it: begin with what a simulation of it expects."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each trial.")] = 3,
    first_seed: Annotated[int, typer.Option("--seed", help="The first of them; also of the sampler.")] = 0,
    check_seeds: Annotated[
        int | None, typer.Option(min=0, help="Seeds that follow, to check on; as many when left out.")
    ] = None,
    grid: Annotated[bool, typer.Option(help="Also search the whole grid, for comparison (simulated only).")] = True,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, or workers of the cluster, on one study.")] = 1,
    cluster: ClusterOption = None,
    storage: Annotated[
        str | None, typer.Option(help="Of the study: a journal file or a database URL; OUT/study.journal otherwise.")
    ] = None,
    device: DeviceOption = None,
    catalogue: CatalogueOption = None,
    model: ModelOption = None,
    tensor_parallel: TensorParallelOption = None,
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    kv_capacity_tokens: KvOption = None,
    parameters: ParametersOption = None,
    ttft_ms: TtftOption = None,
    tpot_ms: TpotOption = None,
    prefix_cache: PrefixCacheOption = None,
    requests: Annotated[int, typer.Option(min=1, help="Torch: how many requests each run serves, at most.")] = 60,
    out: Annotated[Path | None, typer.Option(help="Folder for results; reports/tune-NAME-TRACK when left out.")] = None,
    server_name: Annotated[
        str | None,
        typer.Option("--server", help=f"Start this server with each setting instead: {', '.join(SERVERS)}."),
    ] = None,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND ...]", help="--server: how it is started.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.0, help="--server: begin no start that would end later.")] = math.inf,
    start_timeout_s: Annotated[float, typer.Option(min=0.1, help="--server: how long a start may take.")] = 900.0,
    grace_s: Annotated[float, typer.Option(min=0.1, help="--server: wait for answers after the last request.")] = 60.0,
    served_model: Annotated[str | None, typer.Option(help="--server: what requests name; its first model.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the trials that the study holds.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace the study and the results.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find the best fixed limits, hold them against references, also on seeds not tuned on, and write what to paste."""
    if trace is None:
        refuse(context, "without --trace", "trace_format", "columns", "rate", "start_s", "duration_s")
    how: dict[str, Any] = {
        "format": trace_format,
        "columns": columns,
        "rate": rate,
        "start_s": start_s,
        "duration_s": duration_s,
    }
    if server_name is not None:
        refuse(context, "with --server", *_SEARCHED)
        load = _named(scenario_name, trace, how, backend)
        run = prepare(Changes(ttft_ms=ttft_ms, tpot_ms=tpot_ms).of(load), first_seed)
        asked = Asked(
            server=server_name,
            command=command or [],
            requests=run.requests,
            load=run.scenario.content(),
            track=track,
            bounds=Bounds(trials if was_given(context, "trials") else MOST_STARTS, minutes),
            start_s=start_timeout_s,
            grace_s=grace_s,
            seed=first_seed,
            model=served_model,
            folder=out or Path("reports") / f"tune-{server_name}-{trace.stem if trace else load.name}",
            resume=resume,
            overwrite=overwrite,
        )
        tune_server(asked, as_json=as_json)
        return
    refuse(context, "without --server", "minutes", "start_timeout_s", "grace_s", "served_model")
    if command:
        raise ValueError(f"{' '.join(command)!r} is no option; a server's command line comes with --server")
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
            f"--objective {objective}": objective == ENERGY or "," in objective,
            "--grid": was_given(context, "grid") and grid,
        },
    )
    if server is None:
        refuse(context, "without --backend torch", "requests")
    if "," in objective:
        refuse(context, f"with --objective {objective}", "prior", "jobs", "cluster", "grid")
    _check(track, sampler, objective, first_seed)
    if cluster is not None and jobs == 1:
        raise ValueError("--cluster runs trials side by side; give --jobs, its workers, 2 at least")
    if resume and overwrite:
        raise ValueError("--resume and --overwrite are both given; a study is either kept or replaced")
    from batchpilot.runners.tuning.engine import Running, Study, tune_engine

    named = _named(scenario_name, trace, how, backend)
    if server is None:
        changes = Changes(device, model, tensor_parallel, dtype, parameters, ttft_ms, tpot_ms, prefix_cache)
        benches = simulated_benches(changes.of(named), objective, first_seed)
    else:
        changes = Changes(ttft_ms=ttft_ms, tpot_ms=tpot_ms, prefix_cache=prefix_cache)
        server = replace(server, seed=first_seed)
        benches = torch_benches(server, changes.of(named), objective, requests, parameters)
    chosen = benches.scenario
    folder = out or Path("reports") / f"tune-{trace.stem if trace else chosen.name}-{track}"
    study = Study(
        track=track,
        sampler=sampler,
        objective=objective,
        trials=trials,
        seeds=range(first_seed, first_seed + seeds),
        unseen=range(first_seed + seeds, first_seed + seeds + (seeds if check_seeds is None else check_seeds)),
        min_attainment=min_attainment,
        max_memory=max_memory,
        max_refused=max_refused,
        prior=None if prior is None else read_parameters(prior),
        grid=grid and server is None,
    )
    tune_engine(benches, study, Running(backend, folder, storage, jobs, cluster, resume, overwrite), as_json=as_json)


def _check(track: str, sampler: str, objective: str, seed: int) -> None:
    """Names that an option may have."""
    lookup(TRACKS, track, "track")
    if "," not in objective:
        lookup(OBJECTIVES, objective, "objective")
    make_sampler(sampler, seed)


def _named(name: str | None, trace: Path | None, how: dict[str, Any], backend: str) -> Scenario:
    if name is not None and trace is None:
        return find_scenario(name)
    if name is None and trace is not None:
        return replay_of(trace, **how)
    if name is None and backend == "torch":
        return find_scenario(_TORCH_SCENARIO)
    raise ValueError("name either --scenario NAME|FILE or --trace FILE")
