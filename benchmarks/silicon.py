"""How near are simulated deployments to published ones? Every run of the sample that a single engine served.

The sample comes with the extra `devices`: TTFT and TPOT of runs with N clients. Each is simulated as the closed loop it
was, on the latency that `batchpilot catalogue build` would make for it, beside the package's own estimate of the same
run and the old roofline. Nothing is tuned to the runs.

    python benchmarks/silicon.py [--engines vllm] [--share 0.2] [--out rows.csv]
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.resources
import io
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from batchpilot.configs.catalogue import ModelSpec, device, model
from batchpilot.core.limits import Limits
from batchpilot.engines import memory_model, simulate
from batchpilot.latency.measured.operators import SYSTEMS
from batchpilot.latency.measured.shipping import Layout, build_entry
from batchpilot.latency.model.roofline import roofline
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.workloads import RequestTable

BUDGET = 8192
SHORTEST = 0.8
"""Lengths are drawn between this share of the stated ones and all of it, as the benchmark that made the runs does."""

RUNS_PER_CLIENT = 5

LEAST_HELD = 0.5
"""A run whose engine held a smaller share of its clients, though memory was there, was limited below them."""

HELD_OUT_FROM = "H100-80GB"
"""Constants may be chosen on this device; the last line tells of the others."""

SAME = {
    "Qwen/Qwen3-235B-A22B-FP8": ("Qwen3-235B-A22B", "fp8"),
    "nvidia/Llama-3.1-8B-Instruct-FP8": ("Llama-3.1-8B", "fp8"),
}
DEVICES = {system: name for name, system in SYSTEMS.items()}
TYPES = {"fp8": "fp8", "fp4": "nvfp4", "bf16": "fp16", "int4": "int4", "": None}


@dataclass(frozen=True)
class Run:
    """One published run.

    Attributes:
        device: catalogue name.
        engine: which software.
        model: catalogue entry.
        model_path: what the sample calls it.
        dtype: type of the weights.
        tensor_parallel: devices.
        expert_parallel: groups of them for the experts.
        clients: requests under way at a time.
        prompt_tokens: stated length.
        output_tokens: stated length.
        ttft_ms: as published.
        tpot_ms: as published.
    """

    device: str
    engine: str
    model: ModelSpec
    model_path: str
    dtype: str
    tensor_parallel: int
    expert_parallel: int
    clients: int
    prompt_tokens: int
    output_tokens: int
    ttft_ms: float
    tpot_ms: float

    @property
    def held(self) -> float:
        """Clients that the engine held at a time, by Little's law: the others waited for their first token."""
        decoding_ms = self.tpot_ms * (self.output_tokens - 1)
        return self.clients * decoding_ms / (self.ttft_ms + decoding_ms)


@dataclass
class Told:
    """What the three ways say of a run, NaN where one says nothing."""

    tpot_ms: float = float("nan")
    ttft_ms: float = float("nan")
    peer_tpot_ms: float = float("nan")
    peer_ttft_ms: float = float("nan")
    roofline_tpot_ms: float = float("nan")
    waiting: bool = False
    limited: bool = False


def published(skipped: dict[str, int]) -> Iterator[Run]:
    """The runs of the sample, each once, without those of several engines."""
    path = importlib.resources.files("aiconfigurator_core") / "systems" / "silicon_sample.csv"
    seen = set()
    for row in csv.DictReader(io.StringIO(path.read_text())):
        if row["mode"] != "agg":
            skipped["prefill and decode apart"] = skipped.get("prefill and decode apart", 0) + 1
            continue
        key = tuple(value for name, value in row.items() if name not in ("id", "silicon_data_source"))
        if key in seen:
            skipped["again"] = skipped.get("again", 0) + 1
            continue
        seen.add(key)
        try:
            yield read_run(row)
        except ValueError as error:
            skipped[str(error)[:70]] = skipped.get(str(error)[:70], 0) + 1


def read_run(row: dict[str, str]) -> Run:
    """A row as a run; a ValueError says why it is none of ours."""
    if row["attention_dp_size"] not in ("1", "") or row["pp_size"] not in ("1", ""):
        raise ValueError("several engines behind one address")
    name, dtype = SAME.get(row["model_path"], (row["model_path"], TYPES[row["precision"]]))
    spec = model(name)
    if dtype is None or spec.dtype not in ("fp16", "fp8"):
        dtype = spec.dtype
    groups = int(row["moe_ep_size"] or 1)
    return Run(
        DEVICES[row["system"]],
        row["backend"],
        spec,
        row["model_path"],
        dtype,
        int(row["tp_size"]),
        groups if spec.experts else 1,
        int(float(row["batch_size"])),
        int(row["isl"]),
        int(row["osl"]),
        float(row["silicon_ttft_ms"]),
        float(row["silicon_tpot_ms"]),
    )


@cache
def fitted(chip: str, name: str, engine: str, tensor: int, groups: int, dtype: str) -> SaturationParameters:
    """The latency that the catalogue would hold, with whichever type of the cache is measured."""
    layout = {"engine": engine, "tensor_parallel": tensor, "expert_parallel": groups, "dtype": dtype}
    try:
        return build_entry(device(chip), model(name), Layout(**layout)).parameters
    except ValueError:
        return build_entry(device(chip), model(name), Layout(**layout, kv_dtype="fp8")).parameters


def closed_loop(run: Run, latency: SaturationParameters) -> tuple[float, float, bool]:
    """Mean TTFT and TPOT in ms of the clients in simulation, and whether they had to wait for a place."""
    rng = np.random.default_rng(7)
    count = RUNS_PER_CLIENT * run.clients
    prompt, output = (
        rng.integers(max(1, round(SHORTEST * most)), most + 1, count) for most in (run.prompt_tokens, run.output_tokens)
    )
    memory = memory_model(device(run.device), run.model, run.tensor_parallel, run.dtype, token_budget=BUDGET)
    result = simulate(
        RequestTable.from_arrays(np.zeros(count), prompt, output, concurrency=run.clients),
        latency,
        Limits(max(run.clients, 1), token_budget=BUDGET),
        kv_capacity_tokens=memory.kv_capacity_tokens,
        window_ms=10_000.0,
    )
    tight = run.clients * (run.prompt_tokens + run.output_tokens / 2) > memory.kv_capacity_tokens
    return float(np.nanmean(result.ttft_ms)), float(np.nanmean(result.tpot_ms)), tight


@cache
def peer_of(
    chip: str, engine: str, path: str, tensor: int, groups: int, dtype: str
) -> Callable[[Run], tuple[float, float]]:
    """The package's own estimate of aggregated serving, for runs of one deployment."""
    from aiconfigurator_core.sdk.backends.factory import get_backend
    from aiconfigurator_core.sdk.config import RuntimeConfig
    from aiconfigurator_core.sdk.config_builders import build_model_config
    from aiconfigurator_core.sdk.models import get_model
    from aiconfigurator_core.sdk.perf_database import get_database

    quant = {"nvfp4": "nvfp4", "fp8": "fp8", "fp16": "bfloat16", "int4": "int4_wo"}.get(dtype)
    spec = model(SAME.get(path, (path,))[0])
    given = None if dtype == spec.dtype else quant
    config = build_model_config(
        tensor, 1, 1, tensor // groups if spec.experts else 1, groups, gemm_quant_mode=given,
        moe_quant_mode=given if spec.experts else None, kvcache_quant_mode="bfloat16", fmha_quant_mode="bfloat16",
    )  # fmt: skip
    repository = next(alias for alias in spec.aliases if "/" in alias)
    built, backend = get_model(repository, config, engine), get_backend(engine)
    database = get_database(SYSTEMS[chip], engine, "current")

    def estimate(run: Run) -> tuple[float, float]:
        asked = RuntimeConfig(batch_size=run.clients, isl=run.prompt_tokens, osl=run.output_tokens)
        told = backend.run_agg(built, database, asked, ctx_tokens=min(BUDGET, run.prompt_tokens)).get_result_dict()
        return float(told["ttft"]), float(told["tpot"])

    return estimate


def told_of(run: Run) -> Told:
    """Ask all three."""
    told = Told()
    place = (run.device, run.model.name, run.engine, run.tensor_parallel, run.expert_parallel, run.dtype)
    told.ttft_ms, told.tpot_ms, told.waiting = closed_loop(run, fitted(*place))
    told.limited = run.held < LEAST_HELD * run.clients and not told.waiting
    with contextlib.suppress(Exception):
        ask = peer_of(run.device, run.engine, run.model_path, run.tensor_parallel, run.expert_parallel, run.dtype)
        told.peer_ttft_ms, told.peer_tpot_ms = ask(run)
    with contextlib.suppress(ValueError):
        known = roofline(device(run.device), run.model, run.tensor_parallel, run.dtype).parameters
        told.roofline_tpot_ms = closed_loop(run, known)[1]
    return told


def mean_error(pairs: list[tuple[float, float]]) -> str:
    """Mean and median relative error of (said, published)."""
    known = np.array([(said, true) for said, true in pairs if said == said and true > 0])
    if not len(known):
        return "-"
    off = np.abs(known[:, 0] / known[:, 1] - 1)
    return f"{100 * off.mean():.1f}/{100 * np.median(off):.1f}"


def mean_of(pairs: list[tuple[float, float]]) -> str:
    return mean_error(pairs).split("/")[0] + " %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="vllm,sglang,trtllm")
    parser.add_argument("--share", type=float, default=1.0, help="take so many of the runs, evenly")
    parser.add_argument("--out", type=Path, help="write every run here")
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    skipped: dict[str, int] = {}
    runs = [run for run in published(skipped) if run.engine in options.engines.split(",")]
    runs = runs[:: max(1, round(1 / options.share))]
    rows = []
    for run in runs:
        try:
            rows.append((run, told_of(run)))
        except ValueError as error:
            reason = str(error).split(":")[0][:40] + ": " + str(error).rsplit(":", 1)[-1][:60]
            skipped[reason] = skipped.get(reason, 0) + 1
        if len(rows) % 50 == 0:
            print(len(rows), "of", len(runs), file=sys.stderr, flush=True)
    report(rows, skipped)
    if options.out:
        with options.out.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["device", "engine", "model", "dtype", "tp", "ep", "clients", "isl", "osl", "ttft", "tpot",
                             *vars(Told())])  # fmt: skip
            for run, told in rows:
                place = (run.device, run.engine, run.model.name, run.dtype, run.tensor_parallel, run.expert_parallel)
                lengths = (run.clients, run.prompt_tokens, run.output_tokens, run.ttft_ms, run.tpot_ms)
                writer.writerow([*place, *lengths, *vars(told).values()])


def report(rows: list[tuple[Run, Told]], skipped: dict[str, int]) -> None:
    """Tables by device, engine, model and type, and the last line."""
    print("mean/median error in %: runs, TPOT, TTFT, peer's TPOT, peer's TTFT, roofline's TPOT")
    for title, of in (
        ("device", lambda run: run.device),
        ("engine", lambda run: run.engine),
        ("engine and model", lambda run: f"{run.engine} {run.model.name}"),
        ("type", lambda run: run.dtype),
    ):
        print(f"by {title}")
        for name in sorted({of(run) for run, _ in rows}):
            print(f"  {name:34s} {line([pair for pair in rows if of(pair[0]) == name])}")
    for title, some in (
        ("memory below the clients", [pair for pair in rows if pair[1].waiting]),
        ("a limit of their own below the clients, by Little's law", [pair for pair in rows if pair[1].limited]),
        ("all others", [pair for pair in rows if not pair[1].limited and not pair[1].waiting]),
    ):
        print(f"{title}: {line(some)}")
    for reason, count in sorted(skipped.items(), key=lambda item: -item[1]):
        print(f"left out: {count} ({reason})")
    test = [pair for pair in rows if pair[0].device != HELD_OUT_FROM]
    own = [pair for pair in test if not pair[1].limited]
    print(f"without {len(test) - len(own)} runs that were limited below their clients: {last_line(own)}")
    for engine in ("vllm", "sglang", "trtllm"):
        mine = [pair for pair in test if pair[0].engine == engine]
        if mine:
            print(f"{engine} outside {HELD_OUT_FROM}: {last_line(mine)}")
    print(last_line(test))


def line(rows: list[tuple[Run, Told]]) -> str:
    return (
        f"{len(rows):5d}  {mean_error([(t.tpot_ms, r.tpot_ms) for r, t in rows]):>10s}"
        f"  {mean_error([(t.ttft_ms, r.ttft_ms) for r, t in rows]):>12s}"
        f"  {mean_error([(t.peer_tpot_ms, r.tpot_ms) for r, t in rows]):>12s}"
        f"  {mean_error([(t.peer_ttft_ms, r.ttft_ms) for r, t in rows]):>12s}"
        f"  {mean_error([(t.roofline_tpot_ms, r.tpot_ms) for r, t in rows]):>12s}"
    )


def last_line(rows: list[tuple[Run, Told]]) -> str:
    dense = [(t.tpot_ms, r.tpot_ms) for r, t in rows if not r.model.experts]
    mixed = [(t.tpot_ms, r.tpot_ms) for r, t in rows if r.model.experts]
    return (
        f"silicon: TPOT dense {mean_of(dense)} experts {mean_of(mixed)}, "
        f"TTFT {mean_of([(t.ttft_ms, r.ttft_ms) for r, t in rows])}, "
        f"peer TPOT {mean_of([(t.peer_tpot_ms, r.tpot_ms) for r, t in rows])}, "
        f"roofline before {mean_of([(t.roofline_tpot_ms, r.tpot_ms) for r, t in rows])}"
    )


if __name__ == "__main__":
    main()
