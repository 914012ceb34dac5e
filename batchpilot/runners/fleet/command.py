"""`batchpilot fleet`: which router, which scaler, how many replicas; every way on the same requests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from batchpilot.configs.catalogue import device as find_device
from batchpilot.core.files import json_text
from batchpilot.core.names import lookup
from batchpilot.core.provenance import provenance
from batchpilot.engines.simulated.fairness import fairness
from batchpilot.envs.fleet.offering import Offer, offer, rates
from batchpilot.envs.fleet.splitting import LINK_GB_PER_S, LINK_MS, link_for, split
from batchpilot.envs.scenarios import PreparedRun
from batchpilot.fleet.routers import RULES, Router
from batchpilot.fleet.scalers import SCALERS, Clairvoyant, Predictive, Scaler
from batchpilot.fleet.scaling import cheapest_first, scaled_kinds
from batchpilot.fleet.simulation import simulate_fleet
from batchpilot.runners.completion import completing
from batchpilot.runners.fleet.strategies import NONE, PLANNED, SPLIT, limits_by, planner
from batchpilot.runners.options import (
    CatalogueOption,
    ColumnsOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    PrefixCacheOption,
    TensorParallelOption,
    TpotOption,
    TraceFormatOption,
    TtftOption,
    refuse,
    reporting_mistakes,
    stdout_console,
)
from batchpilot.runners.progress import ToldProgress
from batchpilot.runners.report.grids import Cell, Grid, number, percent
from batchpilot.runners.report.statistics import estimate
from batchpilot.runners.report.tables import tables
from batchpilot.runners.selection import Changes, find_scenario, parse_limits, replay_of

_SCALER_NAMES = (NONE, *SCALERS, PLANNED)


@reporting_mistakes
def fleet(
    context: typer.Context,
    scenario: Annotated[
        str,
        typer.Argument(
            help="What one replica is asked to serve: a name or a file.", autocompletion=completing("scenarios")
        ),
    ] = "quick-chat",
    trace: Annotated[Path | None, typer.Option(help="Replay this trace to the whole fleet instead.")] = None,
    trace_format: TraceFormatOption = None,
    columns: ColumnsOption = None,
    replicas: Annotated[
        list[str] | None, typer.Option("--replicas", help="4, or H100:2 once for each kind of device.")
    ] = None,
    router: Annotated[list[str] | None, typer.Option("--router", help=f"{', '.join(RULES)}; all unless given.")] = None,
    poll_ms: Annotated[
        list[float] | None, typer.Option("--poll-ms", min=0, help="Age of the router's view; 0 is fresh.")
    ] = None,
    count_sent: Annotated[bool, typer.Option(help="Routers count what they sent since the last poll.")] = True,
    scaler: Annotated[
        list[str] | None, typer.Option("--scaler", help=f"{', '.join(_SCALER_NAMES)}; none unless given.")
    ] = None,
    prefill: Annotated[
        list[str] | None,
        typer.Option(
            "--prefill", help="Compare with the same replicas split: 1, or H100:1 a kind, prefill, the others decode."
        ),
    ] = None,
    link_gb_per_s: Annotated[float, typer.Option(help="At which a replica sends or takes KV.")] = LINK_GB_PER_S,
    link_ms: Annotated[float, typer.Option(min=0, help="From the last byte until decoding may begin.")] = LINK_MS,
    scale: Annotated[
        list[str] | None,
        typer.Option("--scale", help="Kinds that a scaler adds to and most of each, H100:2; the first unless given."),
    ] = None,
    least: Annotated[int, typer.Option(min=1, help="Fewest replicas under a scaler.")] = 1,
    most: Annotated[int, typer.Option(min=1, help="Most replicas under a scaler.")] = 8,
    startup_s: Annotated[float, typer.Option(min=0, help="Until a replica that is added serves.")] = 60.0,
    load: Annotated[
        float | None, typer.Option(help="Offer this share of what the replicas serve together, by estimate.")
    ] = None,
    tuner: Annotated[
        str, typer.Option(help="Of each replica.", autocompletion=completing("tuners"))
    ] = "guarded-default",
    limits: Annotated[
        str | None, typer.Option(help="Constant limits instead: batch_size=64,token_budget=2048.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of workload, noise and draws.")] = 3,
    device: DeviceOption = None,
    catalogue: CatalogueOption = None,
    model: ModelOption = None,
    tensor_parallel: TensorParallelOption = None,
    ttft_ms: TtftOption = None,
    tpot_ms: TpotOption = None,
    prefix_cache: PrefixCacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare routers and scalers of a fleet: goodput, latency and cost of each on the same requests."""
    if trace is None:
        refuse(context, "without --trace", "trace_format", "columns")
    if prefill is None:
        refuse(context, "without --prefill", "link_gb_per_s", "link_ms")
    rules = list(router or RULES)
    scalers = list(scaler or [NONE])
    for name in rules:
        lookup(RULES, name, "routing rule")
    for name in scalers:
        lookup(dict.fromkeys(_SCALER_NAMES), name, "scaler")
    named = find_scenario(scenario) if trace is None else replay_of(trace, format=trace_format, columns=columns)
    chosen = Changes(device, model, tensor_parallel, None, None, ttft_ms, tpot_ms, prefix_cache).of(named)
    kinds = parse_replicas(replicas or ["4"], chosen.device)
    parted = None if prefill is None else dict(parse_replicas(prefill, chosen.device))
    if parted is not None:
        scalers.append(SPLIT)
    if set(scalers) <= {NONE, SPLIT}:
        refuse(context, "without --scaler", "scale")
    growing = None if scale is None else dict(parse_replicas(scale, chosen.device))
    constant = None if limits is None else parse_limits(limits)

    def make(run: PreparedRun, seed: int) -> Any:
        if constant is not None:
            return constant
        return limits_by(tuner, run, seed)

    ways = [(rule, age, how) for rule in rules for age in poll_ms or [0.0] for how in scalers]
    rows: dict[tuple[str, float, str], list[dict[str, Any]]] = {way: [] for way in ways}
    offers: list[Offer] = []
    with ToldProgress() as progress:
        bar = progress.add_task("simulating", total=seeds * len(ways))
        for seed in range(seeds):
            offered = offer(chosen, kinds, make, seed, load, startup_s)
            offers.append(offered)
            pools = None if parted is None else split(offered.specs, parted)
            order = [] if growing is None else cheapest_first(offered.specs, _known(growing, kinds))
            named_most = None if growing is None else {name: growing[name] for name in order}
            link = link_for(chosen.model, link_gb_per_s, link_ms)
            for rule, age, how in ways:
                progress.update(bar, description=f"seed {seed}: {rule}, view {age:g} ms old, scaler {how}")
                result = simulate_fleet(
                    offered.requests,
                    pools if how == SPLIT and pools is not None else offered.specs,
                    Router(rule, poll_ms=age, counts_sent=count_sent),
                    link=link,
                    scaler=_scaler(how, offered, startup_s, (least, most), named_most),
                    scaled=named_most,
                    least=least,
                    most=most,
                    horizon_ms=offered.horizon_ms,
                    seed=seed,
                )
                progress.update(bar, advance=1)
                rows[rule, age, how].append(result.summary() | {"fairness": fairness(result.served), "seed": seed})
    stated = {
        "load": f"{named.name}, {len(offers[0].requests):,} requests, {offers[0].load:.0%} of the replicas' capacity",
        "replicas": ", ".join(f"{number} x {name}" for name, number in kinds),
        **({} if parted is None else {"split": _told(parted, link_gb_per_s, link_ms)}),
        "model": chosen.model,
        "latency": offers[0].latency,
        "strategy": limits or tuner,
        "seeds": seeds,
    }
    if as_json:
        told = [{"router": a, "poll_ms": b, "scaler": c, "runs": runs} for (a, b, c), runs in rows.items()]
        typer.echo(json_text({"ways": told} | stated | provenance(0, stated), indent=2))
        return
    typer.echo("\n".join(f"{name}: {value}" for name, value in stated.items()) + "\n")
    typer.echo(verdict(rows) + "\n")
    for shown in tables(ways_grid(rows)):
        stdout_console().print(shown)


def parse_replicas(texts: Sequence[str], default: str) -> list[tuple[str, int]]:
    """Devices and numbers as typed: `4`, `H100:2`, `A100-80GB`.

    Args:
        texts: one a kind.
        default: the device where only a number is given.

    Raises:
        ValueError: a number is not a whole number from 1, or the device is unknown.
    """
    kinds = []
    for text in texts:
        name, _, number = (
            text.rpartition(":") if ":" in text else (("", "", text) if text.isdigit() else (text, "", "1"))
        )
        if not number.isdigit() or int(number) < 1:
            raise ValueError(f"--replicas {text}: {number!r} must be a whole number of replicas, at least 1")
        kinds.append((find_device(name or default).name, int(number)))
    return kinds


def _known(growing: Mapping[str, int], kinds: Sequence[tuple[str, int]]) -> list[str]:
    """Names of the kinds that are to be scaled, each of them among the replicas."""
    for name in growing:
        lookup(dict(kinds), name, "kind of replica")
    return list(growing)


def _scaler(
    name: str, offered: Offer, startup_s: float, bounds: tuple[int, int], scaled: Mapping[str, int] | None
) -> Scaler | None:
    if name in (NONE, SPLIT):
        return None
    growing = scaled_kinds(offered.specs, scaled, bounds[1])
    first, added = offered.specs[0], offered.specs[next(iter(growing))]
    capacity = offered.capacity_tokens_per_s * (added.weight / first.weight)
    if name == "predictive":
        return Predictive(capacity, ahead_s=startup_s)
    if name == "clairvoyant":
        return Clairvoyant(*rates(offered, 30.0), capacity, ahead_s=startup_s)
    if name == PLANNED:
        least, most = bounds
        return planner(offered.specs, offered.requests, least=least, most=most, startup_s=startup_s, scaled=growing)
    return SCALERS[name]()


def _told(parted: Mapping[str, int], link_gb_per_s: float, link_ms: float) -> str:
    those = ", ".join(f"{number} x {name}" for name, number in parted.items())
    return f"{those} prefill, the others decode; KV moves at {link_gb_per_s:g} GB/s, then {link_ms:g} ms"


def _way(way: tuple[str, float, str]) -> str:
    rule, age, how = way
    return rule + (f", {age:g} ms old" if age else "") + ("" if how == NONE else f", {how}")


def _mean(runs: Sequence[dict[str, Any]], column: str) -> float:
    known = [run[column] for run in runs if not math.isnan(run[column])]
    return sum(known) / len(known) if known else math.nan


def verdict(rows: dict[tuple[str, float, str], list[dict[str, Any]]]) -> str:
    """Who serves best, by how much, and whether it matters.

    Args:
        rows: runs by way.
    """
    goodput = {way: estimate([[run["goodput_fraction"] for run in runs]]).value for way, runs in rows.items()}
    best = max(goodput, key=lambda way: (goodput[way], -_mean(rows[way], "ttft_p99_ms")))
    near = [way for way, value in goodput.items() if value > goodput[best] - 0.01]
    p99 = {way: _mean(rows[way], "ttft_p99_ms") for way in rows}
    quickest = min(near, key=lambda way: p99[way] if not math.isnan(p99[way]) else math.inf)
    if len(near) == len(rows) > 1:
        return (
            f"Any of these will do: all {len(rows)} keep within a point of {goodput[best]:.1%} of the tokens. "
            f"Shortest tail: {_way(quickest)}, TTFT p99 {p99[quickest]:,.0f} ms."
        )
    return (
        f"{_way(best)} keeps most: {goodput[best]:.1%} of the tokens within their promise; "
        f"{len(near) - 1} more within a point, the worst {min(goodput.values()):.1%}."
    )


def ways_grid(rows: dict[tuple[str, float, str], list[dict[str, Any]]]) -> Grid:
    """Every way in the order of goodput.

    Args:
        rows: runs by way.
    """
    scaled = any(how not in (NONE, SPLIT) for _, _, how in rows)
    cached = any(run["prefix_hit_rate"] > 0 for runs in rows.values() for run in runs)
    lines = []
    for way, runs in rows.items():
        goodput = estimate([[run["goodput_fraction"] for run in runs]])
        interval = f" [{goodput.low:.3f}, {goodput.high:.3f}]" if len(runs) > 1 else ""
        cells = [
            _way(way),
            f"{goodput.value:.3f}{interval}",
            *(number(_mean(runs, f"ttft_p{q}_ms")) for q in (50, 99)),
            number(_mean(runs, "tpot_p95_ms"), 1),
            percent(_mean(runs, "refused_fraction")),
            number(_mean(runs, "fairness"), 3),
            *((number(_mean(runs, "replica_hours"), 2), number(_mean(runs, "usd"), 2)) if scaled else ()),
            number(_mean(runs, "usd_per_million_tokens"), 2),
            number(_mean(runs, "joules_per_token"), 2),
            *(() if not cached else (percent(_mean(runs, "prefix_hit_rate")),)),
        ]
        lines.append((goodput.value, tuple(Cell(text) for text in cells)))
    lines.sort(key=lambda line: -line[0])
    columns = (
        *("Router", "Goodput share\n[95 % interval]", "TTFT\np50 ms", "TTFT\np99 ms", "TPOT\np95 ms", "refused"),
        "fairness\nto users",
        *(("replica\nhours", "cost\n$") if scaled else ()),
        "$ a million\ngood tokens",
        "J a good\ntoken",
        *(("prompt\ntokens found",) if cached else ()),
    )
    caption = "Interquartile mean of goodput, means of the others, over seeds; every way serves the same requests."
    return Grid("Who takes a request?", columns, tuple(cells for _, cells in lines), caption)
