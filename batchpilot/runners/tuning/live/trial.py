"""One trial: start the server with a setting, send it the load, judge it, stop it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from batchpilot.core.limits import Limits
from batchpilot.engines.simulated.result import SimulationResult
from batchpilot.runners.http.load.columns import fly
from batchpilot.runners.http.load.report import figures
from batchpilot.runners.tuning.live.trials import COMPLETE, FAILED, Trial, goodput_interval
from batchpilot.servers import ServerKind, StartError, running
from batchpilot.servers.process import free_port, last_lines
from batchpilot.serving.formats.results.base import Requests
from batchpilot.serving.formats.results.steps import steps_seen
from batchpilot.serving.load.run import LoadSettings, run_load
from batchpilot.workloads.table import RequestTable

MOST_STEPS = 400
"""Measured steps that are kept of a trial."""


class StoppedError(KeyboardInterrupt):
    """A load that was stopped by hand: it is no trial."""


@dataclass(frozen=True)
class TrialRunner:
    """What every trial has in common.

    Attributes:
        kind: the server.
        requests: that each is sent, open loop.
        folder: for logs.
        start_s: how long a start may take.
        grace_s: how long answers are waited for after the last request.
        seed: of the prompts and of the intervals.
        model: what requests name, None for the server's first.
    """

    kind: ServerKind
    requests: RequestTable
    folder: Path
    start_s: float
    grace_s: float
    seed: int
    model: str | None = None

    def __call__(self, number: int, limits: Limits, expected: float) -> Trial:
        """Run a trial.

        Args:
            number: from 1.
            limits: what the server is started with.
            expected: what the twin expects, NaN without one.

        Returns:
            A failed one where the server does not come up or does not answer.

        Raises:
            StoppedError: stopped by hand.
        """
        log = self.folder / f"trial-{number:02d}.log"
        began, port = time.monotonic(), free_port()

        def failed(reason: str) -> Trial:
            seconds = time.monotonic() - began
            return Trial(number, limits, FAILED, reason, seconds=seconds, expected=expected, log=log.name)

        words = self.kind.words(limits, port)
        try:
            with running(words, port, self.kind.health, log, start_s=self.start_s) as address:
                settings = LoadSettings(address, self.model, grace_s=self.grace_s, seed=self.seed + number)
                found = fly(
                    f"trial {number}: {limits}",
                    len(self.requests),
                    lambda on_progress, stop: run_load(self.requests, settings, on_progress, stop),
                )
        except StartError as error:
            return failed(str(error))
        except ValueError as error:
            return failed(f"{error}; {last_lines(log)}")
        if found.interrupted:
            raise StoppedError
        outcome = found.outcome
        if not outcome.count("length"):
            told = "; ".join(list(found.details)[:2]) or "no answer in time"
            return failed(f"no request was served ({told}); {last_lines(log)}")
        low, high = goodput_interval(outcome, self.seed)
        kept = {name: value for name, value in figures(outcome).items() if math.isfinite(value)}
        return Trial(
            number,
            limits,
            COMPLETE,
            goodput=outcome.goodput_fraction,
            low=low,
            high=high,
            figures=kept,
            seconds=time.monotonic() - began,
            expected=expected,
            log=log.name,
            steps=seen_steps(outcome, self.seed),
        )


def seen_steps(outcome: SimulationResult, seed: int) -> tuple[tuple[float, float, float, float], ...]:
    """Steps as the load's clients saw them, rows of (batch_size, tokens, latency_ms, context_tokens).

    Args:
        outcome: of a load test.
        seed: which are kept where there are many.
    """
    requests = Requests(
        outcome.requests.arrival_ms,
        outcome.requests.prompt_tokens,
        outcome.generated_tokens,
        outcome.requests.output_tokens,
        outcome.ttft_ms,
        outcome.e2e_ms,
        outcome.finish_code,
        (np.zeros(0),) * len(outcome.requests),
        np.full(len(outcome.requests), math.nan),
        0,
    )
    try:
        steps = steps_seen(requests)
    except ValueError:
        return ()
    rows = np.column_stack([steps.batch_size, steps.tokens, steps.latency_ms, steps.context_tokens])
    if len(rows) > MOST_STEPS:
        rows = rows[np.sort(np.random.default_rng(seed).choice(len(rows), MOST_STEPS, replace=False))]
    return tuple((float(B), float(S), float(T), float(C)) for B, S, T, C in rows)
