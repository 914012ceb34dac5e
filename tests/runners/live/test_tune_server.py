"""`batchpilot tune --server`: a real server, started with one setting after another, over real HTTP."""

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from batchpilot.core import SLO, Limits
from batchpilot.engines.simulated.simulation import simulate
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.runners.main import app
from batchpilot.runners.tuning.live.study import (
    Bounds,
    best_of,
    neighbours,
    next_setting,
    run_study,
    settings,
    surprised,
)
from batchpilot.runners.tuning.live.trial import seen_steps
from batchpilot.runners.tuning.live.trials import Trial, goodput_interval, read_trials
from batchpilot.runners.tuning.live.twin import Twin
from batchpilot.workloads.table import RequestTable

SLOTTED = Path(__file__).parents[2] / "helpers/slotted_server.py"


@pytest.fixture
def load(tmp_path):
    """Two seconds at more than 8 slots can serve: 40 requests a second of 10 tokens."""
    path = tmp_path / "load.csv"
    rows = [f"{25 * i},{40 + i % 30},10" for i in range(80)]
    path.write_text("\n".join(["arrival_ms,prompt_tokens,output_tokens", *rows]))
    return path


def typed(load, out, *more, server=()):
    command = [sys.executable, str(SLOTTED), "--port", "{port}", "--slots", "{batch_size}", *server]
    asked = ["--server", "custom", "--trace", load, "--format", "csv", "--ttft-ms", "300", "--tpot-ms", "60"]
    return [
        *map(str, ["tune", *asked, "--grace-s", "3", "--start-timeout-s", "20", "--out", out, *more]),
        "--",
        *command,
    ]


def told(arguments, code=0):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result


def test_settings_are_tried_and_the_best_is_written(load, tmp_path):
    out = tmp_path / "out"
    result = told(typed(load, out, "--trials", "3", "--json"))
    found = json.loads(result.stdout)
    trials = read_trials(out / "trials.jsonl")
    assert 1 <= len(trials) <= 3
    assert trials[0].limits.batch_size == 256
    best = best_of(trials)
    assert found["best"]["batch_size"] == best.limits.batch_size
    assert best.low <= best.goodput <= best.high
    assert f"--slots {best.limits.batch_size}" in found["command"]
    assert f"batch_size: {best.limits.batch_size}" in (out / "limits.yaml").read_text()
    assert all("starting with" in (out / trial.log).read_text() for trial in trials)
    again = told(typed(load, out, "--trials", str(len(trials)), "--resume"))
    assert "goodput share" in again.stdout
    assert read_trials(out / "trials.jsonl") == trials or len(read_trials(out / "trials.jsonl")) == len(trials)


def test_a_server_that_does_not_start_is_a_trial_that_failed(load, tmp_path):
    out = tmp_path / "out"
    result = told(typed(load, out, "--trials", "2", server=("--most-slots", "64")))
    first, second = read_trials(out / "trials.jsonl")
    assert first.state == "failed"
    assert "out of memory: 256 slots do not fit" in first.reason
    assert second.state == "complete"
    assert "not started as it was" in result.stdout


def test_a_server_that_never_starts_is_told_with_its_reason(load, tmp_path):
    result = told(typed(load, tmp_path / "out", "--trials", "1", server=("--most-slots", "1")), code=1)
    assert "None of 1 starts served the load" in result.stdout
    assert "out of memory" in result.stdout


def test_another_study_is_neither_mixed_with_nor_replaced(load, tmp_path):
    out = tmp_path / "out"
    told(typed(load, out, "--trials", "1", "--minutes", "1"))
    assert "--resume or --overwrite" in told(typed(load, out), code=2).output
    other = told(typed(load, out, "--resume", "--seed", "5"), code=2).output
    assert "seed was 0, asked 5" in " ".join(other.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tune", "--scenario", "quick-chat", "serve"], "a server's command line comes with --server"),
        (["tune", "--scenario", "quick-chat", "--minutes", "3"], "--minutes would change nothing without --server"),
        (["tune", "--scenario", "quick-chat", "--server", "vlm", "--", "x"], "did you mean 'vllm'"),
        (
            ["tune", "--scenario", "quick-chat", "--server", "vllm", "--jobs", "2", "--", "x"],
            "--jobs would change nothing",
        ),
    ],
)
def test_mistakes_are_told_in_a_line(arguments, said):
    assert said in " ".join(told(arguments, code=2).output.split())


def test_ctrl_c_stops_the_server_and_keeps_what_has_ended(load, tmp_path):
    out, child = tmp_path / "out", tmp_path / "child"
    asked = typed(load, out, "--trials", "9", server=("--child", str(child)))
    command = [sys.executable, "-m", "batchpilot", *asked]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (out / "trial-02.log").exists() and running.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 130, said
    kept = read_trials(out / "trials.jsonl")
    assert len(kept) >= 1
    assert "--resume goes on" in said
    state = Path(f"/proc/{child.read_text()}/stat")
    until = time.monotonic() + 20.0
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z" and time.monotonic() < until:
        time.sleep(0.05)
    assert time.monotonic() < until


TRUE = SaturationParameters(20.0, 0.12, 0.005, 0.0, 1.0, 12.0, 0.35, 0.04, 0.0002)


def overloaded():
    rng = np.random.default_rng(0)
    arrivals = np.cumsum(rng.exponential(45.0, 400))
    lengths = rng.integers(50, 400, 400), rng.integers(20, 80, 400)
    return RequestTable.from_arrays(arrivals, *lengths, slos=SLO(3000.0, 60.0))


def simulated(requests, factor=1.3):
    """Trials of a server that takes so many times as long as `TRUE`."""

    def run(number, limits, expected):
        outcome = simulate(requests, TRUE.scaled(factor), limits, horizon_ms=60_000.0, noise=0.1, seed=number)
        low, high = goodput_interval(outcome, 0)
        steps = seen_steps(outcome, 0)
        return Trial(
            number, limits, "complete", "", outcome.goodput_fraction, low, high, {}, 1.0, expected, steps=steps
        )

    return run


def test_the_twin_finds_a_setting_close_to_the_best_in_few_starts(tmp_path):
    requests, trials = overloaded(), []
    run = simulated(requests)
    candidates = settings(Limits(256, 2048), ("batch_size", "token_budget"))
    best = max(run(1, one, math.nan).goodput for one in candidates)
    why = run_study(
        candidates,
        trials,
        tmp_path / "trials.jsonl",
        Bounds(8),
        run=run,
        twin_of=lambda so_far: Twin.of(requests, so_far, None),
        tell=lambda trial: None,
    )
    assert best_of(trials).goodput > trials[0].goodput
    assert best_of(trials).goodput >= best - 0.05, why
    assert [trial.limits for trial in read_trials(tmp_path / "trials.jsonl")] == [trial.limits for trial in trials]


def test_a_surprise_asks_for_the_neighbours_of_the_best():
    candidates = settings(Limits(32), ("batch_size",))
    first = Trial(1, Limits(32), "complete", "", 0.1, 0.05, 0.15)
    as_expected = Trial(2, Limits(16), "complete", "", 0.0, 0.0, 0.0, expected=0.2)
    far_off = replace(as_expected, expected=0.9)
    assert not surprised([first, as_expected])
    assert surprised([first, far_off])
    assert neighbours(candidates, [first, far_off]) == [Limits(64)]


def test_no_start_begins_that_would_end_too_late(tmp_path):
    clock = iter(np.arange(0.0, 1e4, 20.0))
    trials = []
    why = run_study(
        settings(Limits(256), ("batch_size",)),
        trials,
        tmp_path / "trials.jsonl",
        Bounds(8, minutes=1.0),
        run=lambda number, limits, expected: Trial(number, limits, "failed", "no"),
        twin_of=lambda so_far: None,
        tell=lambda trial: None,
        now_s=lambda: float(next(clock)),
    )
    assert "past 1 minutes" in why
    assert 1 <= len(trials) < 8


def test_without_a_twin_the_next_setting_is_far_from_those_that_failed():
    candidates = settings(Limits(256), ("batch_size",))
    failed = [Trial(1, Limits(256), "failed", "no")]
    chosen, _ = next_setting(candidates, failed, None)
    assert chosen == Limits(4)


def test_a_last_line_that_a_crash_cut_off_is_left_out(tmp_path):
    path = tmp_path / "trials.jsonl"
    line = Trial(1, Limits(8), "failed", "no").to_line()
    path.write_text(f"{line}\n{line[:40]}")
    assert [trial.limits for trial in read_trials(path)] == [Limits(8)]
