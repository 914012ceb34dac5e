"""Who sets a gateway's limits: constant ones, or a tuner, in a session that keeps no stream waiting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from batchpilot.baselines import SERVER_DEFAULT, Setting, StaticTuner
from batchpilot.core import SLO, Tuner
from batchpilot.core.limits import Limits
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.runners.leaderboard.strategies import make_strategy
from batchpilot.runners.selection import chosen_tuner, find_tuner_config
from batchpilot.serving.gateway.settings import NOT_HELD
from batchpilot.serving.rehearsal import rehearse
from batchpilot.serving.session.session import TunerSession
from batchpilot.tuners import DEFAULT_TUNER

LONGEST_TELL_S = 0.02
"""While a tuner is waited for, no token of any stream passes."""


def constant(limits: Limits) -> Callable[[], Tuner]:
    """Makes tuners that never move.

    Args:
        limits: at which they stand.
    """
    return lambda: StaticTuner(limits)


def deciding(
    tuner: str | None, config: str | None, track: str, parameters: Path | None, slo: SLO, seed: int
) -> Callable[[], Tuner]:
    """Makes tuners; one was made and rehearsed, so that nothing is left to compile.

    Args:
        tuner: as typed; None for the configuration's, else the default.
        config: preset or file.
        track: what a planning tuner may move.
        parameters: file of the step latency that an estimate begins with.
        slo: the promise.
        seed: of its draws.

    Raises:
        ValueError: a name is unknown, or a file is wrong.
        OSError: a file cannot be read.
    """
    latency = None if parameters is None else SaturationParameters.from_yaml(parameters)
    section = find_tuner_config(config)
    chosen = chosen_tuner(tuner, config, section, DEFAULT_TUNER)
    setting = Setting(section, SERVER_DEFAULT, slo, seed, track, latency, not_held=NOT_HELD)

    def strategy() -> Tuner:
        return make_strategy(chosen, setting)

    rehearse(strategy())
    return strategy


def gateway_session(tuner: Tuner, window_ms: float) -> TunerSession:
    """A session that keeps no stream waiting while its tuner thinks.

    Args:
        tuner: decides.
        window_ms: time between two decisions.
    """
    return TunerSession(tuner, window_ms=window_ms, background=tuner.needs_details, longest_tell_s=LONGEST_TELL_S)
