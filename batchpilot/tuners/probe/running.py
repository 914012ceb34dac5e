"""What the tuner does while it runs: adjusting around the best size, and stable running with small trials.

A score is judged only where the batch size or the engine was the restriction (see `sample`): a lower score under a
lighter load is a load change, not a worse size. It is low only beyond eps and three standard deviations of the noise.

- A first low score is not credited but measured again: it may be noise, and whether a collapse (below half of the best)
  is V-shaped, a hiccup already over, cannot be seen earlier.
- A confirmed drop at the best size itself is no matter of size alone: the smaller size is tried in re-evaluation.
- A fallback is an experiment: re-evaluation measures the smaller size and the best one anew, and the better one wins.
- A trial takes at most one batch in ten: one window may well hold more than `exploration_interval` batches.
- Memory or step time over its limit shrinks the batch in either phase, unless no smaller batch is known to help.
"""

from __future__ import annotations

from batchpilot.tuners.probe.adjustment import LONG_STEP_MS, Situation, adjust, oscillation_step, shrunk, significance
from batchpilot.tuners.probe.phases import Phase
from batchpilot.tuners.probe.probing import DROP
from batchpilot.tuners.probe.safety import Fallback, fallback_for, fallback_size, is_recovering, is_v_shaped
from batchpilot.tuners.probe.sample import Evidence, Sample
from batchpilot.tuners.probe.searching import probe
from batchpilot.tuners.probe.state import TunerState

ANOMALY = 0.5
TRIAL_SHARE = 10


def adjust_online(state: TunerState, sample: Sample, evidence: Evidence) -> None:
    """DYNAMIC_ADJUSTMENT: one step around the best size, until size and score hold still.

    Args:
        state: what the tuner knows; changed.
        sample: a measurement of the present size.
        evidence: what restricted the engine.
    """
    if _relieved(state, sample) or _heard_load_change(state):
        return
    if evidence in (Evidence.LIGHT, Evidence.DRAINING):
        state.stability.add(state.size, None, state.config)
        state.reason = f"holding {state.size}: the load does not fill it"
        _settle_if_stable(state, state.size)
        return
    score, best_score = state.score(sample), state.board.best_score
    if _is_low(state, score, best_score):
        if state.low_scores == 1 or _collapsed(state, score, best_score):
            return
        if state.size == state.best_size:
            smaller = shrunk(state.size, state.config)
            state.re_evaluate([smaller, state.size], f"{state.size} scored {score:.3f} < {best_score:.3f} twice")
            return
    if not state.record(sample):
        state.re_evaluate([state.best_size], state.reason)
        return
    state.stability.add(state.size, score, state.config)
    if _settle_if_stable(state, state.best_size):
        return
    now = Situation(
        size=state.size,
        score=score,
        best_size=state.best_size,
        best_score=best_score or score,
        noise=state.board.noise,
        utilisation=sample.utilisation,
        memory_fraction=sample.memory_fraction,
        size_restricts=evidence is Evidence.BINDING,
        flat_above=state.board.is_known_flat_from(state.size + 1),
        highest=state.highest,
        cycle=state.cycle,
    )
    state.cycle += 1
    move = adjust(now, state.config)
    if move.size > state.size and not (state.fits_memory(move.size) and state.is_quick(move.size)):
        state.reason = f"holding {state.size}: {move.size} would need too much memory or time"
    else:
        state.move(*move)


def run_stable(state: TunerState, sample: Sample, evidence: Evidence) -> None:
    """STABLE_RUNNING: hold the size, try one beside it now and then, leave on a drop or a load change.

    The hybrid strategy holds whatever happens, until a probe is triggered or a step fails.

    Args:
        state: what the tuner knows; changed.
        sample: a measurement of the present size.
        evidence: what restricted the engine.
    """
    if state.probe_pending:
        if evidence is not Evidence.LIGHT:
            state.phase = Phase.INITIAL_PROBING
            probe(state, sample, evidence)
    elif state.config.strategy == "hybrid":
        state.reason = f"locked at {state.size} until a probe is triggered"
    elif _relieved(state, sample) or _heard_load_change(state):
        pass
    elif evidence in (Evidence.LIGHT, Evidence.DRAINING):
        _end_trial(state)
        state.reason = f"holding {state.size}: the load does not fill it"
    elif state.trial_home is not None:
        _judge_trial(state, sample)
    else:
        _hold_or_explore(state, sample, evidence)


def _hold_or_explore(state: TunerState, sample: Sample, evidence: Evidence) -> None:
    score, best_score = state.score(sample), state.board.best_score
    if _is_low(state, score, best_score) and (
        state.low_scores == 1 or _collapsed(state, score, best_score) or _fell_back(state, score, best_score)
    ):
        return
    if not state.record(sample):
        state.re_evaluate([state.best_size], state.reason)
        return
    config = state.config
    state.reason = f"stable at {state.size}, score {score:.3f}"
    state.steps_since_trial += sample.steps
    recoverable = state.size < state.best_size and config.enable_auto_recovery
    if recoverable and is_recovering(state.scores, config.recovery_sensitivity):
        larger = min(state.best_size, max(state.size + 1, round(1.1 * state.size)))
        state.move(larger, f"recovering to {larger}: the score rises")
    elif evidence is Evidence.BINDING:
        _explore(state)


def _is_low(state: TunerState, score: float, best_score: float) -> bool:
    """Whether a score is well below the best; counts how many in a row are."""
    if score >= best_score * (1.0 - significance(state.board.noise, state.config)):
        state.low_scores = 0
        return False
    state.low_scores += 1
    state.reason = f"measuring {state.size} again: it scored {score:.3f} < {best_score:.3f}"
    return True


def _collapsed(state: TunerState, score: float, best_score: float) -> bool:
    """Answer a score below half of the best; False when it is not."""
    if score >= ANOMALY * best_score:
        return False
    if is_v_shaped(state.scores):
        state.reason = f"holding {state.size}: the score is already rising again"
        return True
    if state.size != state.best_size:
        state.move(state.best_size, f"back to the best size {state.best_size}: the score at {state.size} collapsed")
        return True
    if state.phase is Phase.STABLE_RUNNING:
        return False
    state.re_evaluate([state.best_size], f"the score at the best size {state.size} collapsed")
    return True


def _fell_back(state: TunerState, score: float, best_score: float) -> bool:
    """Answer a drop of the score by its fallback level; False when there is none to answer."""
    drop = 1.0 - score / best_score
    level = fallback_for(drop, state.config.fallback_level)
    if level is Fallback.SAFE:
        state.enter_safe_state(f"the score dropped by {drop:.0%}")
        return True
    deeper, state.fallback = level > state.fallback, level
    best_size = state.best_size
    smaller = fallback_size(level, state.size, best_size, state.config.min_batch_size)
    if score < DROP * best_score:
        why = f"the score dropped by {drop:.0%} ({level.name.lower()} fallback)"
        state.re_evaluate([smaller, best_size] if deeper else [best_size], why)
    elif level is Fallback.NONE:
        return False
    elif deeper and smaller < state.size:
        state.move(smaller, f"minor fallback to {smaller}: the score dropped by {drop:.0%}")
    else:
        state.re_evaluate([best_size], "a smaller size did not bring the score back")
    return True


def _explore(state: TunerState) -> None:
    """Every `exploration_interval` batches, try a size a little above, or return to the best one."""
    if state.steps_since_trial < max(state.config.exploration_interval, TRIAL_SHARE * state.trial_steps):
        return
    if state.size != state.best_size:
        state.steps_since_trial = 0.0
        state.move(state.best_size, f"returning to the best size {state.best_size}")
        return
    trial = min(state.highest, state.size + oscillation_step(state.size, state.config))
    if trial > state.size and state.fits_memory(trial) and state.is_quick(trial):
        state.trial_home = state.size
        state.move(trial, f"exploring {trial} beside {state.size}")


def _judge_trial(state: TunerState, sample: Sample) -> None:
    """Keep the size on trial if it leads the board, go home otherwise."""
    state.trial_steps = sample.steps
    state.score(sample)
    state.record(sample)
    if state.board.best_size == state.size:
        state.phase = Phase.DYNAMIC_ADJUSTMENT
        state.begin_phase()
        state.reason = f"exploration found {state.size} better: adjusting from there"
    else:
        _end_trial(state)


def _end_trial(state: TunerState) -> None:
    if state.trial_home is not None:
        trial, home = state.size, state.trial_home
        state.trial_home, state.steps_since_trial = None, 0.0
        state.move(home, f"back to {home}: {trial} brought no gain")


def _settle_if_stable(state: TunerState, home: int) -> bool:
    if not state.stability.is_stable(home, state.board.noise, state.config):
        return False
    state.phase = Phase.STABLE_RUNNING
    state.begin_phase()
    state.move(home, f"stable at {home}: size and score have held still")
    return True


def _relieved(state: TunerState, sample: Sample) -> bool:
    """Shrink when memory or step time is over its limit and a smaller batch could help."""
    lowest, limit = state.config.min_batch_size, state.config.memory_usage_limit
    if state.size <= lowest:
        return False
    if sample.memory_fraction > limit and state.memory.helps_to_shrink(lowest, limit * state.total_mb):
        why = f"memory is at {sample.memory_fraction:.2f} > {limit:g}"
    elif state.step_time.level > LONG_STEP_MS and state.step_time.helps_to_shrink(lowest, LONG_STEP_MS):
        # The mean over the last windows: one window may hold a single step with a long prompt, which no size avoids.
        why = f"a step takes {state.step_time.level:.0f} ms > {LONG_STEP_MS:g}"
    else:
        return False
    smaller = shrunk(state.size, state.config)
    state.ceiling = state.size - 1
    state.phase = Phase.DYNAMIC_ADJUSTMENT
    state.forget_scores()
    state.move(smaller, f"shrunk to {smaller}: {why}")
    return True


def _heard_load_change(state: TunerState) -> bool:
    if not state.load_changed:
        return False
    state.ceiling = None
    state.re_evaluate([state.trial_home or state.best_size], "the load changed")
    return True
