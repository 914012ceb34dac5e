"""What the tuner does while it searches: probing, re-evaluating, and recuperating in the safe state.

The probe begins at the configured initial size, after a failed step at half of what failed, and after the safe state at
the minimum, which is known to work.

The probe waits at any size that the load does not fill, the initial one included: smaller sizes would only hurt, larger
ones change nothing. It goes on when the load fills the size; a wait of `stabilization_cycles` is stable running.
"""

from __future__ import annotations

from batchpilot.tuners.probe.phases import Phase
from batchpilot.tuners.probe.safety import is_too_slow
from batchpilot.tuners.probe.sample import Evidence, Sample
from batchpilot.tuners.probe.state import TunerState


def probe(state: TunerState, sample: Sample, evidence: Evidence) -> None:
    """INITIAL_PROBING: credit the sample, then measure the next size or finish.

    Args:
        state: what the tuner knows; changed.
        sample: a measurement of the present size.
        evidence: what restricted the engine.
    """
    if evidence is Evidence.LIGHT:
        _wait_for_load(state)
        return
    state.light_decisions = 0
    if state.probe is None:
        was = state.size
        state.start_probe(state.config.initial_batch_size, "the load fills the batch: the probe begins")
        # A batch that has only just filled holds its first prompts, which no later window does: it settles first.
        state.settling_ms = state.settle_ms
        if state.is_settling or state.size != was or evidence is not Evidence.BINDING:
            return
    assert state.probe is not None
    if evidence is not Evidence.DRAINING:
        state.score(sample)
        state.record(sample)
    scores = state.board.scores(state.probe.sizes)
    too_large = is_too_slow(sample, state.config) or not state.fits_memory(state.size)
    following = state.probe.advance(scores, state.fits_memory, evidence is not Evidence.SATURATED, too_large)
    if following is not None:
        low, high = state.probe.low, state.probe.high
        way = "growing" if following > state.size else "going down"
        state.move(following, f"probing {following}: " + (f"between {low} and {high}" if low else way))
        return
    best = state.probe.best(scores)
    if best is None:
        state.enter_safe_state("the probe found no acceptable size")
    else:
        _finish(state, best, state.probe.verdict)


def re_evaluate(state: TunerState, sample: Sample, evidence: Evidence) -> None:
    """RE_EVALUATION: measure each candidate once, then adjust from the last one unless another leads it.

    Args:
        state: what the tuner knows; changed.
        sample: a measurement of the present size.
        evidence: what restricted the engine.
    """
    if evidence is Evidence.LIGHT:
        home = max(state.candidates)
        state.phase = Phase.DYNAMIC_ADJUSTMENT
        state.begin_phase()
        state.move(home, f"the load does not fill {state.size}: holding {home}")
        return
    if evidence is not Evidence.DRAINING:
        state.score(sample)
        state.record(sample)
    last = state.candidates.pop(0)
    if state.candidates:
        state.move(state.candidates[0], f"re-evaluating at {state.candidates[0]}")
        return
    if last in state.board:
        state.board.defend(last)
    if state.board.best_size is not None and state.board.best_score == 0.0:
        state.enter_safe_state("no acceptable size is left")
    else:
        state.phase = Phase.DYNAMIC_ADJUSTMENT
        state.begin_phase()
        state.move(state.best_size, f"adjusting from {state.best_size}, score {state.board.best_score:.3f}")


def recuperate(state: TunerState, sample: Sample, evidence: Evidence) -> None:
    """SAFE_FALLBACK: wait for healthy windows, then probe again.

    Args:
        state: what the tuner knows; changed.
        sample: a measurement of the present size; that there is one is what counts.
        evidence: what restricted the engine.
    """
    state.healthy_needed -= 1
    if state.healthy_needed > 0:
        state.reason = f"safe state: {state.healthy_needed} more healthy windows before the next probe"
    else:
        state.start_probe(state.config.min_batch_size, "the engine is healthy again: probing")


def _wait_for_load(state: TunerState) -> None:
    state.light_decisions += 1
    state.reason = f"the load does not fill size {state.size}: the probe goes on when it does"
    if state.light_decisions >= state.config.stabilization_cycles:
        state.phase = Phase.STABLE_RUNNING


def _finish(state: TunerState, best: int, verdict: str) -> None:
    state.probe, state.probe_pending = None, False
    state.cooldown = 1
    state.begin_phase()
    state.board.crown(best)
    if state.config.strategy == "hybrid":
        state.phase = Phase.STABLE_RUNNING
        state.move(best, f"the probe found {best} best and locked it: {verdict}")
    else:
        state.phase = Phase.DYNAMIC_ADJUSTMENT
        state.move(best, f"the probe found {best} best: {verdict}")
