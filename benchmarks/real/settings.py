"""Measures sixteen settings of a real vLLM by its own flags: what `tune --server` searches, every one of it.

    python benchmarks/real/settings.py --out reports/settings --rate 7.5 [--repeats 3]

Takes an hour a repeat, and goes on where it stopped. vLLM is started with each setting and sent, open loop, the same
requests, with prompts of their own each time, or the prefix cache would answer; then all again, in another order, since
a shared machine changes its pace within minutes. The first start, with vLLM's own limits, is asked by `batchpilot
calibrate --url` before anything else. `searches.py` reads what is written.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from build import ROOT
from loads import CAPACITY_PER_S, requests_of
from servers import SERVED, model_of, version_of, vllm

from batchpilot.core.files import json_text
from batchpilot.core.limits import Limits
from batchpilot.core.provenance import provenance
from batchpilot.engines.simulated.result import SimulationResult
from batchpilot.runners.tuning.live.trial import seen_steps
from batchpilot.runners.tuning.live.trials import COMPLETE, Trial, goodput_interval
from batchpilot.serving.load.run import LoadSettings, run_load
from batchpilot.workloads.table import RequestTable

SETTINGS = [Limits(batch, budget) for budget in (2048, 512, 1024, 256) for batch in (32, 16, 64, 128)]
DEFAULT = Limits(128, 2048)
"""What this vLLM starts with on a processor."""

KV_TOKENS = 93_184
"""KV tokens of 2 GiB for SmolLM2-135M, as vLLM says at its start."""

SECONDS, GRACE_S = 45.0, 15.0


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=ROOT / ".real", help="what build.py made")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "settings")
    parser.add_argument("--rate", type=float, default=CAPACITY_PER_S["vllm"], help="requests a second")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lock", type=Path, help="held during each run, so that nobody else measures then")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    measure(asked)


def measure(asked: argparse.Namespace) -> None:
    """Add the runs that `runs.jsonl` lacks, each on a start of its own."""
    known = {(run.limits, run.repeat) for run in read_runs(asked.out)}
    calibration = asked.out / "calibration.yaml"
    for repeat, limits in in_order(asked.repeats):
        if (limits, repeat) in known and (limits != DEFAULT or calibration.exists()):
            continue
        began = time.monotonic()
        flags = f"--max-num-seqs {limits.batch_size} --max-num-batched-tokens {limits.token_budget}"
        log = asked.out / "logs" / f"{limits.batch_size}x{limits.token_budget}.log"
        with vllm(asked.real.resolve(), log, flags=flags) as address:
            start_s = time.monotonic() - began
            if limits == DEFAULT and not calibration.exists():
                with quiet(asked.lock):
                    calibrate(address, calibration)
            send(address, requests_of("vllm", 0.7 * asked.rate / CAPACITY_PER_S["vllm"], 15.0, 999), 999)
            if (limits, repeat) in known:
                continue
            with quiet(asked.lock):
                before = os.getloadavg()[0]
                run = trial(address, asked, limits, repeat)
            told = {"start_s": start_s, "load_average": [before, os.getloadavg()[0]]}
            told |= {
                "rate_per_s": asked.rate,
                "version": version_of("vllm", address),
                "model": model_of("vllm"),
                "repeat": repeat,
            }
            line = {"trial": json.loads(run.to_line()), **told, "measured": provenance(repeat, {})}
            with (asked.out / "runs.jsonl").open("a") as runs:
                runs.write(json_text(line) + "\n")
            print(f"{limits} repeat {repeat}: goodput {run.goodput:.3f}, started in {start_s:.0f} s", flush=True)


def in_order(repeats: int) -> Iterator[tuple[int, Limits]]:
    """Every repeat and setting: the default first, then each repeat in an order of its own."""
    yield 0, DEFAULT
    for repeat in range(repeats):
        for place in np.random.default_rng(repeat).permutation(len(SETTINGS)):
            if repeat or SETTINGS[place] != DEFAULT:
                yield repeat, SETTINGS[place]


def calibrate(address: str, into: Path) -> None:
    """`batchpilot calibrate --url`, its words to the terminal."""
    command = [sys.executable, "-m", "batchpilot.runners.main", "calibrate", "--url", address, "--minutes", "3"]
    command += ["--out", str(into), "--steps", str(into.with_suffix(".csv")), "--overwrite"]
    subprocess.run(command, check=True)


def requests_in(rate_per_s: float, repeat: int) -> RequestTable:
    """The requests of a repeat: the same for every setting."""
    return requests_of("vllm", rate_per_s / CAPACITY_PER_S["vllm"], SECONDS, 1000 + repeat)


def send(address: str, requests: RequestTable, seed: int) -> SimulationResult:
    """One load, judged."""
    settings = LoadSettings(address, SERVED, bytes_per_token=4.5, grace_s=GRACE_S, seed=seed)
    return asyncio.run(run_load(requests, settings)).outcome


def trial(address: str, asked: argparse.Namespace, limits: Limits, repeat: int) -> Trial:
    """One run as `tune --server` keeps it."""
    began = time.monotonic()
    outcome = send(address, requests_in(asked.rate, repeat), time.time_ns() % 2**31)
    low, high = goodput_interval(outcome, repeat)
    figures = {f"{name}_p{q}_ms": outcome.percentile_ms(f"{name}_ms", q) for name in ("ttft", "tpot") for q in (50, 95)}
    return Trial(
        1, limits, COMPLETE, goodput=outcome.goodput_fraction, low=low, high=high, figures=figures,
        seconds=time.monotonic() - began, steps=seen_steps(outcome, repeat),
    )  # fmt: skip


@contextmanager
def quiet(lock: Path | None) -> Iterator[None]:
    """While nobody else measures."""
    if lock is None:
        yield
        return
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


class Run(NamedTuple):
    """One load on a setting, and the start before it."""

    limits: Limits
    repeat: int
    trial: Trial
    start_s: float
    rate_per_s: float


def read_runs(folder: Path) -> list[Run]:
    """What was measured.

    Args:
        folder: given as `--out`.
    """
    path = folder / "runs.jsonl"
    told = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    trials = [Trial.from_line(json.dumps(one["trial"])) for one in told]
    return [
        Run(trial.limits, one["repeat"], trial, one["start_s"], one["rate_per_s"])
        for one, trial in zip(told, trials, strict=True)
    ]


if __name__ == "__main__":
    main()
