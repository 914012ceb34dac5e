"""`batchpilot simulate`: one scenario, one strategy, what happened."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from batchpilot.baselines import SERVER_DEFAULT, Setting
from batchpilot.core.files import json_text, write_json
from batchpilot.core.limits import DISCIPLINE_WORDS, TRACKS, Limits
from batchpilot.core.provenance import provenance
from batchpilot.core.tuner import Tuner
from batchpilot.engines import SimulatedEngine, SimulationResult, run_engine
from batchpilot.engines.simulated.fairness import fairness, tenant_figures
from batchpilot.engines.simulated.result import image_figures
from batchpilot.envs.scenarios import PreparedRun, prepare
from batchpilot.runners.completion import completing
from batchpilot.runners.leaderboard.evaluation import memory_of, tightest_slo
from batchpilot.runners.leaderboard.strategies import REFERENCES, blaming, label, make_strategy
from batchpilot.runners.options import (
    CatalogueOption,
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
    stdout_console,
)
from batchpilot.runners.report.verdict import SHIPPED
from batchpilot.runners.selection import (
    Changes,
    chosen_tuner,
    find_scenario,
    find_tuner_config,
    parse_limits,
    replay_of,
)
from batchpilot.runners.simulate_table import simulate_table, verdict
from batchpilot.runners.stated import stated
from batchpilot.tuners import DEFAULT_TUNER, TUNERS


@reporting_mistakes
def simulate(
    context: typer.Context,
    scenario: Annotated[
        str, typer.Argument(help="A scenario's name or file.", autocompletion=completing("scenarios"))
    ] = "quick-chat",
    trace: Annotated[Path | None, typer.Option(help="Replay this trace instead.")] = None,
    trace_format: TraceFormatOption = None,
    columns: ColumnsOption = None,
    rate: RateOption = 1.0,
    tuner: Annotated[
        str | None,
        typer.Option(
            help=f"A strategy: {', '.join(TUNERS)}; or policy:FILE.onnx, FILE.py:CLASS, or a reference.",
            autocompletion=completing("tuners"),
        ),
    ] = None,
    limits: Annotated[
        str | None, typer.Option(help="Constant limits instead: batch_size=64,token_budget=2048.")
    ] = None,
    track: Annotated[str, typer.Option(help=f"What a planning tuner may move: {', '.join(TRACKS)}.")] = "guarded",
    config: ConfigOption = None,
    seed: Annotated[int, typer.Option(help="Of workload, noise and tuner.")] = 0,
    device: DeviceOption = None,
    catalogue: CatalogueOption = None,
    model: ModelOption = None,
    tensor_parallel: TensorParallelOption = None,
    dtype: DtypeOption = None,
    parameters: ParametersOption = None,
    ttft_ms: TtftOption = None,
    tpot_ms: TpotOption = None,
    prefix_cache: PrefixCacheOption = None,
    out: Annotated[Path | None, typer.Option(help="Also write requests and windows to this JSON file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run one strategy on one scenario and print what happened."""
    if tuner is not None and limits is not None:
        raise ValueError("--tuner and --limits are both given; a run follows one of them")
    if config is not None and tuner is None and limits is None:
        tuner = chosen_tuner(None, config, find_tuner_config(config), DEFAULT_TUNER)
    if tuner is None:
        refuse(context, "without --tuner", "track", "config")
    elif tuner in REFERENCES:
        refuse(context, f"with the reference {tuner}", "config")
    if trace is None:
        refuse(context, "without --trace", "trace_format", "columns", "rate")
    else:
        refuse(context, "with --trace", "scenario")
    named = find_scenario(scenario) if trace is None else replay_of(trace, trace_format, columns, rate=rate)
    changes = Changes(device, model, tensor_parallel, dtype, parameters, ttft_ms, tpot_ms, prefix_cache)
    run = prepare(changes.of(named), seed)
    strategy: Limits | Tuner
    if tuner is None:
        strategy = parse_limits(limits) if limits is not None else SERVER_DEFAULT
    elif tuner in REFERENCES:
        strategy = REFERENCES[tuner](run, track)
    else:
        chosen, latency = find_tuner_config(config), run.engine.believed_latency()
        known = chosen, SERVER_DEFAULT, tightest_slo(run), seed, track, latency
        strategy = make_strategy(tuner, Setting(*known, memory=memory_of(run)))
    engine = SimulatedEngine(run.engine, run.requests, record_steps=getattr(strategy, "needs_details", False))
    with blaming(tuner or ""):
        result = run_engine(engine, strategy, window_ms=run.window_ms, horizon_ms=run.horizon_ms)
    figures = _figures(run, str(strategy) if tuner is None else label(tuner, strategy), result)
    if out is not None:
        write_json(out, figures | _details(result))
    if as_json:
        typer.echo(json_text(figures, indent=2))
    else:
        beside = None if strategy == SERVER_DEFAULT else _shipped(run)
        console = stdout_console()
        console.print(verdict(figures, beside), style="bold", highlight=False)
        console.print(simulate_table(figures, beside))


def _shipped(run: PreparedRun) -> dict[str, Any]:
    """The same requests under the limits that servers ship with."""
    engine = SimulatedEngine(run.engine, run.requests)
    result = run_engine(engine, SERVER_DEFAULT, window_ms=run.window_ms, horizon_ms=run.horizon_ms)
    return _figures(run, SHIPPED, result)


def _figures(run: PreparedRun, strategy: str, result: SimulationResult) -> dict[str, Any]:
    reasons = ("length", "refused_on_arrival", "refused_by_guard", "failed", "cancelled", "unfinished")
    return {
        "scenario": run.scenario.name,
        "strategy": strategy,
        **stated(run),
        "kv_capacity_tokens": run.engine.capacity_tokens,
        "requests": len(run.requests),
        **{f"ended_{reason}": result.count(reason) for reason in reasons},
        "elapsed_s": result.elapsed_ms / 1000.0,
        "goodput_fraction": result.goodput_fraction,
        "goodput_tokens_per_s": result.goodput_tokens_per_s,
        "throughput_tokens_per_s": result.throughput_tokens_per_s,
        "slo_attainment": result.slo_attainment,
        "order": ", ".join(DISCIPLINE_WORDS[name] for name in result.disciplines or (run.engine.discipline,)),
        **{
            f"{column}_p{q}_ms": result.percentile_ms(f"{column}_ms", q)
            for column in ("ttft", "tpot", "e2e")
            for q in (50, 95, 99)
        },
        **{f"refusal_p{q}_ms": result.refusal_ms(q) for q in (50, 95)},
        "requests_per_s": 1000.0 * result.count("length") / result.elapsed_ms if result.elapsed_ms else math.nan,
        "efficiency": result.efficiency,
        "utilisation": result.utilisation,
        "fairness": fairness(result),
        "preemptions": result.preemptions,
        "prefix_hit_rate": result.prefix_hit_rate,
        **image_figures(result),
        **tenant_figures(result, run.engine.tenants),
        **{f"refused_q{k + 1}": float(share) for k, share in enumerate(result.refused_by_prompt_quartile())},
        "refused_worst_quarter": result.refused_worst_quarter,
        "final_limits": str(result.windows[-1].limits) if result.windows else "",
        **provenance(run.seed, run.scenario.content()),
    }


def _details(result: SimulationResult) -> dict[str, Any]:
    columns = {"arrival_ms": result.requests.arrival_ms, "ttft_ms": result.ttft_ms, "e2e_ms": result.e2e_ms}
    per_request = {name: values.tolist() for name, values in columns.items()}
    per_request |= {"finish_reason": result.finish_reason, "slo_met": result.slo_met.tolist()}
    return {"per_request": per_request, "windows": [window.to_dict() for window in result.windows]}
