"""Everything of this project that needs a GPU, in one script of at most eight minutes, for whoever has one.

    python benchmarks/gpu_check.py [--out gpu_check.json]     # on a GPU: Llama-3-8B's shape, random weights, bfloat16
    python benchmarks/gpu_check.py --device cpu --small       # on a processor, to see that it runs

Parts, each told in a row, and none that fails stops the others: the torch engine's tests on the device, decode against
the bandwidth floor and prefill against the arithmetic one, calibration and the simulation held against the engine, what
the device says of itself and J per token, overload with and without the recommended tuner, and vLLM with the adapter's
scheduler if it is installed. A part that the time left does not hold is left out, and says so. Needs the extra `torch`
and, for the tests, `dev`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from batchpilot import Limits, RequestTable, make_tuner
from batchpilot.baselines.static import SERVER_DEFAULT
from batchpilot.configs.scenario import scenario
from batchpilot.core.files import write_json
from batchpilot.core.provenance import provenance
from batchpilot.core.slo import SLO
from batchpilot.engines.detection.detect import detect_device
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.envs.torch_backend import TorchBackend

TESTS = ("test_torch_equality.py", "test_torch_engine.py", "test_torch_sampling.py")
DECODES = ((1, 512), (8, 512), (32, 512), (128, 512))
"""Requests and context of each."""

RECOMMENDED = "guarded-adaptive"


@dataclass
class Check:
    """What is asked for, and what was found.

    Attributes:
        device: torch device.
        model: preset or folder.
        dtype: of the weights.
        prefill_tokens: prompt tokens of the prefill steps.
        validate: further options of `batchpilot validate`.
        requests: of the overload and of the telemetry, at most.
        ends: when no further part begins, by `time.monotonic`.
        seed: of weights, requests and order.
        figures: by part.
        rows: (part, what, figure), as they are printed.
    """

    device: str
    model: str
    dtype: str
    prefill_tokens: tuple[int, ...]
    validate: tuple[str, ...]
    requests: int
    ends: float
    seed: int = 0
    figures: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    runner: Any = None

    def part(self, name: str, needs_s: float, work: Callable[[Check], dict[str, Any]]) -> None:
        """Do a part, or say why not."""
        left = self.ends - time.monotonic()
        if left < needs_s:
            self.told(name, "left out", f"{left:.0f} s are left of {needs_s:.0f} that it may take")
            return
        started = time.monotonic()
        try:
            found = work(self)
        except Exception as error:  # noqa: BLE001 - whatever a device raises is a finding, and the other parts go on
            found = {"failed": f"{type(error).__name__}: {error}"}
        found["seconds"] = time.monotonic() - started
        self.figures[name] = found
        if "failed" in found:
            self.told(name, "failed", found["failed"])

    def told(self, part: str, what: str, figure: str) -> None:
        """Add a row, and print it at once."""
        self.rows.append((part, what, figure))
        print(f"| {part} | {what} | {figure} |", flush=True)


def tests(check: Check) -> dict[str, Any]:
    """The engine's own tests, on the device."""
    root = Path(__file__).resolve().parents[1]
    files = [str(root / "tests" / "engines" / "torch_engine" / name) for name in TESTS]
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", *files]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "BATCHPILOT_TORCH_DEVICE": check.device}, capture_output=True, text=True,
        timeout=max(check.ends - time.monotonic(), 1.0), check=False,
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()[-200:]
    check.told("tests", f"on {check.device}", last)
    return {"code": done.returncode, "last_line": last, "output": done.stdout[-4000:]}


def floors(check: Check) -> dict[str, Any]:
    """Steps against what memory and arithmetic allow."""
    from batchpilot.engines.torch.device import synchronise
    from batchpilot.engines.torch.warm_up import synthetic_step

    runner, found = check.runner, detect_device()
    bytes_read = sum(p.numel() * p.element_size() for p in runner.model.parameters())
    weights = sum(p.numel() for p in runner.model.parameters())
    kv_bytes = runner.memory.kv_mb_per_token * 2**20
    known = runner.device.type == "cuda"
    bandwidth, tflops = (found.bandwidth_gb_per_s, found.peak_tflops) if known else (None, None)

    def median_ms(requests: int, tokens: int, context: int) -> float:
        step = synthetic_step(requests, tokens, context, runner.cache.block_size)
        times = []
        for _ in range(13):
            started = time.perf_counter()
            runner.logits(step)
            synchronise(runner.device)
            times.append(1000.0 * (time.perf_counter() - started))
        return float(np.median(times[3:]))

    told: dict[str, Any] = {"device": found.model, "bandwidth_gb_per_s": bandwidth, "peak_tflops": tflops, "steps": []}
    for requests, context in DECODES:
        if requests * (context + 16) > runner.kv_capacity_tokens:
            continue
        ms = median_ms(requests, 1, context)
        read_gb = (bytes_read + requests * context * kv_bytes) / 1e9
        floor = None if bandwidth is None else 1000.0 * read_gb / bandwidth
        against = "" if floor is None else f", {ms / floor:.2f} x the bandwidth floor of {floor:.2f} ms"
        check.told("decode", f"{requests} x {context} context", f"{ms:.2f} ms{against}, {read_gb / ms * 1000:.0f} GB/s")
        told["steps"].append({"requests": requests, "tokens": 1, "context": context, "ms": ms, "floor_ms": floor})
    for tokens in check.prefill_tokens:
        if tokens + 16 > runner.kv_capacity_tokens:
            continue
        ms = median_ms(1, tokens, 0)
        work = 2e-12 * weights * tokens
        floor = None if tflops is None else 1000.0 * work / tflops
        against = "" if floor is None else f", {ms / floor:.2f} x the arithmetic floor of {floor:.2f} ms"
        check.told("prefill", f"{tokens} tokens", f"{ms:.2f} ms{against}, {work / ms * 1000:.1f} TFLOP/s")
        told["steps"].append({"requests": 1, "tokens": tokens, "context": 0, "ms": ms, "floor_ms": floor})
    return told


def sim_to_real(check: Check) -> dict[str, Any]:
    """Calibrate, serve, simulate: quantiles side by side."""
    options = ("--engine", "torch", "--model", check.model, "--device", check.device, "--dtype", check.dtype)
    command = [sys.executable, "-m", "batchpilot", "validate", *options, *check.validate, "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=max(check.ends - time.monotonic(), 1.0), check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-300:])
    found: dict[str, Any] = json.loads(done.stdout)
    check.told("calibration", "mean error of a step", f"{100 * found['steps']['mape']:.1f} %")
    for name, figure in found["figures"].items():
        told = f"{figure['real']:.1f} real, {figure['simulated']:.1f} simulated ({100 * figure['error']:+.1f} %)"
        check.told("sim to real", name, told)
    return found


def telemetry(check: Check) -> dict[str, Any]:
    """A busy engine and what its device says: power, utilisation, memory."""
    from batchpilot.engines.torch import Telemetry, TorchEngine, TorchEngineConfig
    from batchpilot.engines.torch.telemetry import source_of

    rng = np.random.default_rng(check.seed)
    n = check.requests
    requests = RequestTable.from_arrays(np.zeros(n), rng.integers(16, 128, n), rng.integers(16, 64, n))
    source = Telemetry(source_of(check.runner.device), 5)
    engine = TorchEngine(TorchEngineConfig(seed=check.seed), requests, check.runner, telemetry=source)
    engine.set_limits(Limits(64, 2048))
    started = time.perf_counter()
    engine.run_until(float("inf"))
    seconds = time.perf_counter() - started
    tokens = int(requests.output_tokens.sum())
    power = [sample.reading.power_w for sample in source.samples if sample.reading.power_w is not None]
    busy = [sample.reading.utilisation for sample in source.samples if sample.reading.utilisation is not None]
    joules = float(np.mean(power)) * seconds / tokens if power else None
    told = f"{tokens / seconds:.0f} tokens/s, busy {np.mean(busy):.0%}" if busy else f"{tokens / seconds:.0f} tokens/s"
    energy = "no power reading here" if joules is None else f"{np.mean(power):.0f} W, {joules:.3f} J a token"
    check.told("telemetry", f"{len(source.samples)} samples", f"{told}, {energy}")
    return {"seconds": seconds, "tokens": tokens, "power_w": power, "utilisation": busy, "joules_per_token": joules}


def overload(check: Check) -> dict[str, Any]:
    """One and a half times the capacity, under what servers ship and under the recommended tuner."""
    backend = TorchBackend(check.runner, model_name=check.model)
    run = backend.prepare(scenario("torch-overload"), check.seed)
    promise = SLO(float(run.requests.ttft_target_ms.max()), float(run.requests.tpot_target_ms.max()))
    found: dict[str, Any] = {"requests": len(run.requests), "ttft_ms": promise.ttft_ms, "tpot_ms": promise.tpot_ms}
    for name in ("static-default", RECOMMENDED):
        asked = SERVER_DEFAULT if name == "static-default" else make_tuner(name, slo=promise)
        result = run_engine(backend.start(run), asked, window_ms=run.window_ms, horizon_ms=run.horizon_ms)
        figures = {
            "goodput_fraction": result.goodput_fraction,
            "ttft_p95_ms": result.percentile_ms("ttft_ms", 95),
            "tpot_p95_ms": result.percentile_ms("tpot_ms", 95),
            "refused_fraction": result.refused_fraction,
        }
        found[name] = figures
        times = f"TTFT p95 {figures['ttft_p95_ms']:.0f} ms, TPOT p95 {figures['tpot_p95_ms']:.1f} ms"
        check.told("overload", name, f"{100 * result.goodput_fraction:.1f} % of the tokens within SLO, {times}")
    return found


def vllm(check: Check) -> dict[str, Any]:
    """VLLM's own engine on the same shape, random weights, with its scheduler and with the adapter's."""
    if importlib.util.find_spec("vllm") is None:
        check.told("vllm", "left out", "it is not installed")
        return {}
    script = Path(__file__).resolve().parent / "gpu_check_vllm.py"
    found: dict[str, Any] = {}
    for scheduler in ("own", "batchpilot"):
        done = subprocess.run(
            [sys.executable, str(script), scheduler, check.model], capture_output=True, text=True,
            timeout=max(check.ends - time.monotonic(), 1.0), check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{scheduler} scheduler: {done.stderr.strip()[-300:]}")
        found[scheduler] = json.loads(done.stdout.strip().splitlines()[-1])
        check.told("vllm", f"{scheduler} scheduler", f"{found[scheduler]['tokens_per_s']:.0f} tokens/s")
    return found


PARTS: dict[str, tuple[float, Callable[[Check], dict[str, Any]]]] = {
    "floors": (20, floors),
    "overload": (40, overload),
    "telemetry": (20, telemetry),
    "tests": (60, tests),
    "sim to real": (90, sim_to_real),
    "vllm": (90, vllm),
}
"""The parts, and the seconds that must be left for each."""


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the parts, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", help="a preset or a folder; Llama-3-8B's shape, with --small tiny-llama")
    parser.add_argument("--threads", type=int, help="of torch on a processor")
    parser.add_argument("--small", action="store_true", help="small shapes, for a processor")
    parser.add_argument("--minutes", type=float, default=8.0, help="of all parts together")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="raw figures")
    asked = parser.parse_args(arguments)
    import torch

    from batchpilot.engines.torch import ModelRunner

    if asked.threads:
        torch.set_num_threads(asked.threads)
    started = time.monotonic()
    model = asked.model or ("tiny-llama" if asked.small else "llama-3-8b")
    small = ("--trials", "4", "--repeats", "2", "--runs", "1", "--requests", "20", "--kv-capacity-tokens", "8192")
    check = Check(
        asked.device, model, "float32" if asked.small else "bfloat16",
        (64, 256) if asked.small else (512, 2048), small if asked.small else ("--runs", "2", "--repeats", "3"),
        16 if asked.small else 256, started + 60.0 * asked.minutes, asked.seed,
    )  # fmt: skip
    print(f"gpu_check: {model} ({check.dtype}) on {asked.device}, at most {asked.minutes:g} minutes\n")
    print("| part | | |\n|---|---|---|")
    load = partial(ModelRunner, model, device=asked.device, dtype=check.dtype, seed=asked.seed)
    check.runner = load(kv_capacity_tokens=8192 if asked.small else None)
    check.told("load", model, f"{check.runner.kv_capacity_tokens} KV tokens, {time.monotonic() - started:.0f} s")
    for name in asked.parts:
        if name in ("sim to real", "vllm"):
            check.runner = None
            _release(asked.device)
        check.part(name, *PARTS[name])
    whole = {"model": model, "torch_device": asked.device, "dtype": check.dtype, "parts": check.figures}
    whole |= {"rows": check.rows, "seconds": time.monotonic() - started} | provenance(asked.seed)
    write_json(asked.out, whole)
    print(f"\n{whole['seconds']:.0f} s; raw figures: {asked.out}")
    return whole


def _release(device: str) -> None:
    """Give memory back: the parts that follow load the model in processes of their own."""
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
