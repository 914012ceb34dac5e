"""How near are simulated deployments to published ones? Every run of the sample that a single engine served.

Each run is simulated as the closed loop it was, on the latency that the catalogue has or would build for it, beside
the package's own estimate of the same run and the roofline of version 0.3. Constants (`OVERHEADS`) are chosen on H100
alone; the last line is of all other devices. One run in six unless `--full`.

Where the runs of a recipe held more requests than a 16-bit KV cache has room for (Little's law), the recipe had an
8-bit one or more of the memory: the first of `CACHES` that has room is taken. A run that held less than half of its
clients though memory was there had a limit of its own: it is simulated with the clients it held, and told apart.

    python benchmarks/silicon.py [--full] [--engines vllm] [--out rows.csv]
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from published_runs import Run, published, sample

from batchpilot.configs.catalogue import device, model
from batchpilot.core.limits import Limits
from batchpilot.engines import memory_model, simulate
from batchpilot.latency.measured.operators import SYSTEMS
from batchpilot.latency.measured.served import OVERHEADS, Overheads
from batchpilot.latency.measured.shipping import Layout, build_entry
from batchpilot.latency.model.roofline import Attainable, roofline_of
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.workloads import RequestTable

BUDGET = 8192
RUNS_PER_CLIENT = 10
"""As the public benchmark sends; all clients start at once, and what they wait then is part of the mean."""

LEAST_HELD = 0.5
CACHES = ((None, 0.9), ("fp8", 0.9), ("fp8", 0.95))
"""Type of the KV cache, None for as published, and the server's share of memory."""

CHOSEN_ON = "H100-80GB"
SAMPLED = 6


@dataclass
class Told:
    """What the three ways say of a run, NaN where one says nothing."""

    tpot_ms: float = float("nan")
    ttft_ms: float = float("nan")
    peer_tpot_ms: float = float("nan")
    peer_ttft_ms: float = float("nan")
    roofline_tpot_ms: float = float("nan")
    memory_bound: bool = False
    limited: bool = False


Cache = tuple[str | None, float]


def capacity(run: Run, kept: Cache) -> int:
    """KV tokens that a run's engine has room for.

    Raises:
        ValueError: the model does not fit.
    """
    chip, (kind, share) = device(run.device), kept
    memory = memory_model(chip, run.model, run.tensor_parallel, run.dtype, share, BUDGET, kind, run.clients)
    return memory.kv_capacity_tokens


def caches(runs: Sequence[Run]) -> dict[tuple[str, ...], Cache]:
    """The cache of each recipe: the first that has room for what each of its runs held."""
    by_recipe = defaultdict(list)
    for run in runs:
        by_recipe[run.recipe].append(run)

    def has_room(run: Run, kept: Cache) -> bool:
        try:
            return run.held_tokens <= capacity(run, kept)
        except ValueError:
            return False

    return {
        recipe: next((kept for kept in CACHES if all(has_room(run, kept) for run in mine)), CACHES[-1])
        for recipe, mine in by_recipe.items()
    }


@cache
def built(chip: str, name: str, engine: str, tensor: int, groups: int, dtype: str, cached: str) -> SaturationParameters:
    """The latency that the catalogue would hold, with whichever type of the cache is measured."""

    def entry(kind: str) -> SaturationParameters:
        layout = Layout(engine=engine, tensor_parallel=tensor, expert_parallel=groups, dtype=dtype, kv_dtype=kind)
        return build_entry(device(chip), model(name), layout).served

    try:
        return entry(cached)
    except ValueError:
        return entry("fp8" if cached == "fp16" else "fp16")


def closed_loop(run: Run, latency: SaturationParameters, kv_capacity_tokens: int, limit: int) -> tuple[float, float]:
    """Mean TTFT and TPOT in ms of a run's clients in simulation."""
    rng = np.random.default_rng(7)
    count = RUNS_PER_CLIENT * run.clients
    prompt, output = (
        rng.integers(max(1, round(run.shortest * most)), most + 1, count)
        for most in (run.prompt_tokens, run.output_tokens)
    )
    result = simulate(
        RequestTable.from_arrays(np.zeros(count), prompt, output, concurrency=run.clients),
        latency,
        Limits(max(limit, 1), token_budget=BUDGET),
        kv_capacity_tokens=kv_capacity_tokens,
        window_ms=10_000.0,
    )
    return float(np.nanmean(result.ttft_ms)), float(np.nanmean(result.tpot_ms))


@cache
def peer_of(
    chip: str, engine: str, name: str, tensor: int, groups: int, dtype: str, cached: str
) -> Callable[[Run], tuple[float, float]]:
    """The package's own estimate of aggregated serving, for runs of one deployment with the same cache as ours."""
    from aiconfigurator_core.sdk.backends.factory import get_backend
    from aiconfigurator_core.sdk.config import RuntimeConfig
    from aiconfigurator_core.sdk.config_builders import build_model_config
    from aiconfigurator_core.sdk.models import get_model
    from aiconfigurator_core.sdk.perf_database import get_database

    quant = {"nvfp4": "nvfp4", "fp8": "fp8", "fp16": "bfloat16", "int4": "int4_wo"}.get(dtype)
    spec = model(name)
    given = None if dtype == spec.dtype else quant
    config = build_model_config(
        tensor, 1, 1, tensor // groups if spec.experts else 1, groups, gemm_quant_mode=given,
        moe_quant_mode=given if spec.experts else None, kvcache_quant_mode=cached, fmha_quant_mode="bfloat16",
    )  # fmt: skip
    repository = next(alias for alias in spec.aliases if "/" in alias)
    made, backend = get_model(repository, config, engine), get_backend(engine)
    database = get_database(SYSTEMS[chip], engine, "current")

    def estimate(run: Run) -> tuple[float, float]:
        asked = RuntimeConfig(batch_size=run.clients, isl=run.prompt_tokens, osl=run.output_tokens)
        told = backend.run_agg(made, database, asked, ctx_tokens=min(BUDGET, run.prompt_tokens)).get_result_dict()
        return float(told["ttft"]), float(told["tpot"])

    return estimate


def told_of(run: Run, kept: Cache) -> Told:
    """Ask all three.

    Raises:
        ValueError: there is no latency for the run, or it does not fit.
    """
    told = Told()
    room = capacity(run, kept)
    told.memory_bound = run.clients * run.mean_share * (run.prompt_tokens + run.output_tokens / 2) > room
    told.limited = run.held < LEAST_HELD * run.clients and not told.memory_bound
    limit = round(run.held) if told.limited else run.clients
    place = (run.device, run.model.name, run.engine, run.tensor_parallel, run.expert_parallel, run.dtype)
    told.ttft_ms, told.tpot_ms = closed_loop(run, built(*place, kept[0] or "fp16"), room, limit)
    told.ttft_ms += OVERHEADS.get(run.engine, Overheads()).front_ms
    where = (run.device, run.engine, run.model.name, run.tensor_parallel, run.expert_parallel, run.dtype)
    for cached in ("fp8", "bfloat16") if kept[0] == "fp8" else ("bfloat16",):
        try:
            told.peer_ttft_ms, told.peer_tpot_ms = peer_of(*where, cached)(run)
            break
        except Exception as error:  # noqa: BLE001 - the package raises its own, unrelated to each other
            print(f"no estimate of the package for {place}, {cached}: {error!s:.80}", file=sys.stderr)
    known = before(run)
    told.roofline_tpot_ms = closed_loop(run, known, room, limit)[1]
    return told


def before(run: Run) -> SaturationParameters:
    """The roofline before it was fitted to measured systems: all weights read and computed, launches of every layer."""
    dense = replace(run.model, active_parameters=None, experts=0, experts_per_token=0)
    old = Attainable(
        compute=0.5,
        expert_compute=0.5,
        bandwidth=0.8,
        layer_ms=0.11,
        request_ms=0.02,
        hop_ms=0.01,
        link=0.8,
        slow_link=0.8,
    )
    return roofline_of(device(run.device), dense, old, run.tensor_parallel, run.dtype)


def error_of(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Mean and median relative error of (said, published) in %, NaN where nothing was said."""
    known = np.array([(said, true) for said, true in pairs if said == said and true > 0])
    if not len(known):
        return float("nan"), float("nan")
    off = 100 * np.abs(known[:, 0] / known[:, 1] - 1)
    return float(off.mean()), float(np.median(off))


Row = tuple[Run, Told]
PEER, ROOFLINE = "package's TPOT", "roofline's TPOT"
ERRORS: dict[str, Callable[[Row], tuple[float, float]]] = {
    "TPOT": lambda row: (row[1].tpot_ms, row[0].tpot_ms),
    "TTFT": lambda row: (row[1].ttft_ms, row[0].ttft_ms),
    PEER: lambda row: (row[1].peer_tpot_ms, row[0].tpot_ms),
    "package's TTFT": lambda row: (row[1].peer_ttft_ms, row[0].ttft_ms),
    ROOFLINE: lambda row: (row[1].roofline_tpot_ms, row[0].tpot_ms),
}


def line(rows: Sequence[Row]) -> str:
    """Count and errors of some rows, as a line of a table."""
    told = ["{:6.1f}/{:6.1f}".format(*error_of([pair(row) for row in rows])) for pair in ERRORS.values()]
    return f"{len(rows):5d}  " + "  ".join(told)


def last_line(rows: Sequence[Row]) -> str:
    """What is quoted."""

    def mean(name: str, some: Sequence[Row]) -> str:
        return f"{error_of([ERRORS[name](row) for row in some])[0]:.1f} %"

    dense = [row for row in rows if not row[0].model.experts]
    mixed = [row for row in rows if row[0].model.experts]
    return (
        f"silicon: TPOT dense {mean('TPOT', dense)} experts {mean('TPOT', mixed)}, TTFT {mean('TTFT', rows)}, "
        f"peer TPOT {mean(PEER, rows)}, roofline before {mean(ROOFLINE, rows)}"
    )


def report(rows: Sequence[Row], left_out: Counter[str]) -> None:
    """Tables by device, engine, model and type, and the last line."""
    print(f"mean/median error in %: runs, {', '.join(ERRORS)}")
    groupings: dict[str, Callable[[Run], str]] = {
        "device": lambda run: run.device,
        "engine": lambda run: run.engine,
        "engine and model": lambda run: f"{run.engine} {run.model.name}",
        "engine and version": lambda run: f"{run.engine} {run.version or 'not said'}",
        "type": lambda run: run.dtype,
    }
    for title, of in groupings.items():
        print(f"by {title}")
        for name in sorted({of(run) for run, _ in rows}):
            print(f"  {name:34s} {line([row for row in rows if of(row[0]) == name])}")
    print(f"memory below the clients: {line([row for row in rows if row[1].memory_bound])}")
    print(f"limited below the clients, by Little's law: {line([row for row in rows if row[1].limited])}")
    for reason, count in left_out.most_common():
        print(f"left out: {count} ({reason})")
    test = [row for row in rows if row[0].device != CHOSEN_ON]
    for engine in sorted({run.engine for run, _ in test}):
        print(f"{engine} outside {CHOSEN_ON}: {last_line([row for row in test if row[0].engine == engine])}")
    print(last_line(test))


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write every run and what was said of it as a file of comma-separated rows."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(name for name in vars(rows[0][0])), *vars(Told())])
        for run, told in rows:
            writer.writerow([*(vars(run) | {"model": run.model.name}).values(), *vars(told).values()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="vllm,sglang,trtllm")
    parser.add_argument("--full", action="store_true", help="every run, not one in six")
    parser.add_argument("--out", type=Path, help="write every run here")
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    left_out: Counter[str] = Counter()
    runs = [run for run in published(sample(), left_out) if run.engine in options.engines.split(",")]
    kept = caches(runs)
    rows: list[Row] = []
    for number, run in enumerate(runs if options.full else runs[::SAMPLED]):
        try:
            rows.append((run, told_of(run, kept[run.recipe])))
        except ValueError as error:
            left_out[f"{str(error).split(' for ')[0].split(':')[0][:40]}: {run.engine} {run.model.name}"] += 1
        if number % 100 == 99:
            print(number + 1, "runs", file=sys.stderr, flush=True)
    report(rows, left_out)
    if options.out:
        write(options.out, rows)


if __name__ == "__main__":
    main()
