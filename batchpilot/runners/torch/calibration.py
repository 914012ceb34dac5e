"""Measuring a torch engine for `calibrate` and `validate`. Torch is imported where it is used."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from batchpilot.core.files import write_atomic
from batchpilot.core.limits import Limits
from batchpilot.core.names import lookup
from batchpilot.engines.detection.detect import detect_device
from batchpilot.engines.loading import load_runner
from batchpilot.engines.simulated.step_design import MeasuredTrial, Trial, design_trials, measure_trials
from batchpilot.latency.fitting.judging import Judgement, judge
from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.saturation_fit import fit
from batchpilot.runners.calibration.calibrating import Calibration, calibrate_steps
from batchpilot.runners.torch.clock import Clock, step_clock

if TYPE_CHECKING:
    from batchpilot.engines.torch import ModelRunner

ENGINES: dict[str, str] = {"torch": "a Hugging Face causal LM on this machine"}
MEASURED_LIMITS = Limits(32, token_budget=512)
"""Largest batch and step that are measured unless said otherwise."""

FIXED: dict[str, float] = {"tau_s": 0.0}
"""Not fitted: once tokens saturate the device, tau_s cannot be told from 1 / p_max, and either may carry it all."""

HELD_OUT = 5
"""Parts of the trials, each predicted from the others."""


@dataclass(frozen=True, slots=True)
class TorchServer:
    """What is measured, and on what.

    Attributes:
        model: a preset, a folder or a name that transformers knows.
        device: torch device; None for "cuda" where there is one, else "cpu".
        dtype: of the weights.
        threads: processor threads of torch, None leaves them as they are.
        kv_capacity_tokens: KV tokens to set aside, None for all that fit.
        seed: of random weights.
        kv_dtype: of the KV cache.
    """

    model: str
    device: str | None = None
    dtype: str = "float32"
    threads: int | None = None
    kv_capacity_tokens: int | None = None
    seed: int = 0
    kv_dtype: str = "auto"

    def start(self) -> ModelRunner:
        """Load the model and warm it up.

        Raises:
            ValueError: torch is missing, or the model cannot be served as asked.
        """
        return load_runner(
            self.model,
            device=self.device,
            threads=self.threads,
            dtype=self.dtype,
            kv_dtype=self.kv_dtype,
            kv_capacity_tokens=self.kv_capacity_tokens,
            seed=self.seed,
        )


def named_engine(name: str) -> str:
    """The name of an engine that can be measured.

    Args:
        name: as typed.

    Raises:
        ValueError: no such engine; the message names the known ones.
    """
    lookup(ENGINES, name, "engine to measure")
    return name


def labels_of(server: TorchServer, runner: ModelRunner) -> dict[str, str]:
    """Device and model, as a parameter file names them.

    Args:
        server: what was asked for.
        runner: the model, started.
    """
    if runner.device.type != "cpu":
        return {"device": detect_device().model, "model": server.model}
    from torch import get_num_threads

    return {"device": f"{detect_device(()).model}, {get_num_threads()} threads", "model": server.model}


def calibrate_engine(
    server: TorchServer,
    largest: Limits,
    *,
    trials: int,
    repeats: int,
    seed: int,
    fixed: Mapping[str, float] | None = None,
    show: Callable[[Iterable[MeasuredTrial]], Iterable[MeasuredTrial]] = iter,
    **options: Any,
) -> tuple[Calibration, Observations]:
    """Measure a torch engine, on the clock that `step_clock` chooses, and calibrate the latency model on its steps.

    Args:
        server: what is measured.
        largest: largest batch and step.
        trials: how many workloads.
        repeats: rounds.
        seed: of design, order and the fit's random starts.
        fixed: parameters that are not fitted, besides `FIXED`.
        show: passes the runs on and shows progress.
        **options: others of `calibrate_steps`.

    Returns:
        What was found, and every step that was measured.

    Raises:
        ValueError: torch is missing, the model cannot be served as asked, or an argument is outside its bound.
    """
    runner = server.start()
    clock, told = step_clock(runner)
    design = plan_trials(runner, largest, trials, seed)
    runs = measure(runner, design, repeats=repeats, seed=seed, show=show, clock=clock)
    steps = all_steps(runs)
    fixed = FIXED | dict(fixed or {})
    source = f"torch engine, {server.dtype}, {trials} workloads measured {repeats} times {told}, seed {seed}"
    found = calibrate_steps(steps, source=source, labels=labels_of(server, runner), fixed=fixed, seed=seed, **options)
    held_out = judge_held_out(runs, fixed)
    if held_out is None:
        return found, steps
    remark = (
        f"each fifth of the workloads predicted from the others: off by {held_out.mape:.1%} on average, by less than "
        f"{held_out.p95_error:.1%} in 95 of 100 steps"
    )
    return replace(found, remarks=(remark, *found.remarks)), steps


def plan_trials(runner: ModelRunner, limits: Limits, trials: int, seed: int) -> tuple[Trial, ...]:
    """The design for a runner: every batch size and step up to some limits.

    Args:
        runner: the model.
        limits: the largest that will be used; without a token budget, steps go to 16 tokens a request.
        trials: how many workloads.
        seed: of the design.

    Raises:
        ValueError: the KV cache does not hold the largest batch.
    """
    return design_trials(
        limits.batch_size,
        limits.token_budget or 16 * limits.batch_size,
        kv_capacity_tokens=runner.kv_capacity_tokens,
        max_model_len=runner.shape.max_positions,
        trials=trials,
        seed=seed,
    )


def measure(
    runner: ModelRunner,
    trials: Sequence[Trial],
    *,
    repeats: int,
    clock: Clock,
    seed: int = 0,
    show: Callable[[Iterable[MeasuredTrial]], Iterable[MeasuredTrial]] = iter,
) -> list[MeasuredTrial]:
    """Run a design on the torch engine.

    Args:
        runner: the model.
        trials: the design.
        repeats: rounds.
        clock: seconds.
        seed: of the order in each.
        show: passes the runs on and shows progress.
    """
    from batchpilot.engines.torch import TorchEngine, TorchEngineConfig

    config = TorchEngineConfig()
    runs = measure_trials(
        lambda requests: TorchEngine(config, requests, runner, record_steps=True, clock=clock),
        trials,
        repeats=repeats,
        seed=seed,
    )
    return list(show(runs))


def all_steps(runs: Iterable[MeasuredTrial]) -> Observations:
    """The steps of every run, in their order.

    Args:
        runs: what `measure` returned.
    """
    return Observations.joined(run.steps for run in runs)


def judge_held_out(runs: Sequence[MeasuredTrial], fixed: Mapping[str, float]) -> Judgement | None:
    """Errors on steps of trials that were not fitted: a fifth of the design at a time.

    Args:
        runs: what `measure` returned.
        fixed: parameters that are not fitted.

    Returns:
        The judgement of all predictions together; None with fewer trials than parts.
    """
    trials = 1 + max((run.trial for run in runs), default=-1)
    if trials < HELD_OUT:
        return None
    predicted, measured = [], []
    for part in range(HELD_OUT):
        known = fit(all_steps(run for run in runs if run.trial % HELD_OUT != part), fixed=fixed).parameters
        steps = all_steps(run for run in runs if run.trial % HELD_OUT == part)
        predicted.append(known.predict(steps.batch_size, steps.tokens, steps.context_tokens))
        measured.append(steps.latency_ms)
    return judge(np.concatenate(predicted), np.concatenate(measured))


def write_steps(path: Path, steps: Observations) -> Path:
    """Write steps as `calibrate --measurements` reads them.

    Args:
        path: a CSV file.
        steps: what was measured.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("batch_size", "tokens", "context_tokens", "latency_ms"))
    rows = zip(steps.batch_size, steps.tokens, steps.context_tokens, steps.latency_ms, strict=True)
    writer.writerows((f"{B:.10g}", f"{S:.10g}", f"{C:.10g}", f"{T:.4f}") for B, S, C, T in rows)
    return write_atomic(path, text.getvalue())
