"""The server's twin: a simulation calibrated from trials, with as many truths as they leave possible.

Each possible server is the fitted step latency times a factor, with the noise that the fit left. A trial makes those
likelier that would have come to what it came to. The next setting is the one with the most expected improvement over
the best so far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.engines import EngineConfig, SimulatedEngine
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.saturation_fit import fit
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.runners.tuning.live.trials import COMPLETE, Trial
from batchpilot.tuners.bayesian.prior import possible_factors
from batchpilot.workloads.table import RequestTable

SERVERS = 9
"""Possible servers."""

LEAST_DOUBT, MOST_DOUBT = 0.15, 0.5
"""Spread of the logarithm of their step times: no calibration from outside is better, and a worse one says
nothing."""

NOISE_OF_A_TRIAL = 0.05
"""Goodput of two runs of one setting differs by so much, beyond what requests tell."""

FEWEST_STEPS = 8
_LONGEST_STEP_MS = 1e5


@dataclass
class Twin:
    """What settings would come to, as far as the trials tell.

    Attributes:
        requests: that every trial is sent.
        parameters: the fitted step latency.
        doubt: spread of the logarithm of its factor.
        kv_capacity_tokens: KV tokens that fit, None for no bound.
        seed: of the noise of steps.
    """

    requests: RequestTable
    parameters: SaturationParameters
    doubt: float
    kv_capacity_tokens: int | None = None
    seed: int = 0
    _known: dict[Limits, NDArray[np.float64]] = field(default_factory=dict, repr=False)
    _log_weights: NDArray[np.float64] = field(default_factory=lambda: np.zeros(SERVERS), repr=False)

    @classmethod
    def of(
        cls, requests: RequestTable, trials: Sequence[Trial], kv_capacity_tokens: int | None, seed: int = 0
    ) -> Twin | None:
        """A twin of the server that trials ran on.

        Args:
            requests: that every trial is sent.
            trials: so far.
            kv_capacity_tokens: KV tokens that fit, None for no bound.
            seed: of the noise of steps.

        Returns:
            None where the trials show too few steps.
        """
        complete = [trial for trial in trials if trial.state == COMPLETE]
        parts = [trial.observations for trial in complete if trial.steps]
        if not parts:
            return None
        steps, _ = Observations.joined(parts).cleaned(highest_ms=_LONGEST_STEP_MS)
        if len(steps) < FEWEST_STEPS:
            return None
        parameters = fit(steps, random=12, seed=seed).parameters
        predicted = parameters.predict(steps.batch_size, steps.tokens, steps.context_tokens)
        spread = float(np.median(np.abs(np.log(steps.latency_ms / predicted))) * 1.5)
        twin = cls(requests, parameters, min(max(spread, LEAST_DOUBT), MOST_DOUBT), kv_capacity_tokens, seed)
        for trial in complete:
            twin.learn(trial)
        return twin

    def learn(self, trial: Trial) -> None:
        """Make those servers likelier that would have come to what a trial came to.

        Args:
            trial: a complete one.
        """
        spread = math.hypot((trial.high - trial.low) / 3.92, NOISE_OF_A_TRIAL)
        self._log_weights -= 0.5 * ((self.predicted(trial.limits) - trial.goodput) / spread) ** 2

    @property
    def weights(self) -> NDArray[np.float64]:
        """How likely each possible server is, shape (SERVERS,), of sum 1."""
        likely = np.exp(self._log_weights - self._log_weights.max())
        weights: NDArray[np.float64] = likely / likely.sum()
        return weights

    def predicted(self, limits: Limits) -> NDArray[np.float64]:
        """Goodput share of a setting on each possible server, shape (SERVERS,).

        Args:
            limits: the setting.
        """
        if limits not in self._known:
            factors = possible_factors(self.doubt, SERVERS)
            self._known[limits] = np.array([self._goodput(limits, float(factor)) for factor in factors])
        return self._known[limits]

    def expected(self, limits: Limits) -> float:
        """Expected goodput share of a setting.

        Args:
            limits: the setting.
        """
        return float(self.weights @ self.predicted(limits))

    def improvement(self, limits: Limits, best: float) -> float:
        """Expected improvement of a setting over the best so far.

        Args:
            limits: the setting.
            best: goodput share so far.
        """
        return float(self.weights @ np.maximum(self.predicted(limits) - best, 0.0))

    def _goodput(self, limits: Limits, factor: float) -> float:
        config = EngineConfig(
            latency=self.parameters.scaled(factor),
            kv_capacity_tokens=self.kv_capacity_tokens,
            noise=min(self.doubt, 0.3),
            seed=self.seed,
        )
        horizon = 2.0 * self.requests.duration_ms + 60_000.0
        outcome = run_engine(SimulatedEngine(config, self.requests), limits, window_ms=1000.0, horizon_ms=horizon)
        value = outcome.goodput_fraction
        return value if math.isfinite(value) else 0.0
