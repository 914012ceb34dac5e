"""Who decides when: a sample goes to the phase's rules, a failure to the failure rules, an order is carried out.

A failed step counts as out of memory: windows do not tell failures apart. The failed size lowers a ceiling that holds
until the load changes or a person asks for a probe, so that one unlucky size is not tried again and again.

Source: dynamic batch tuner document, safety and run-time interface (SPEC 1).
"""

from __future__ import annotations

from collections.abc import Callable

from batchpilot.configs.tuner import TunerConfig
from batchpilot.tuners.probe.phases import Phase
from batchpilot.tuners.probe.running import adjust_online, run_stable
from batchpilot.tuners.probe.sample import Evidence, Sample
from batchpilot.tuners.probe.score import ScoreBoard
from batchpilot.tuners.probe.searching import probe, re_evaluate, recuperate
from batchpilot.tuners.probe.state import TunerState

RULES: dict[Phase, Callable[[TunerState, Sample, Evidence], None]] = {
    Phase.INITIAL_PROBING: probe,
    Phase.DYNAMIC_ADJUSTMENT: adjust_online,
    Phase.STABLE_RUNNING: run_stable,
    Phase.SAFE_FALLBACK: recuperate,
    Phase.RE_EVALUATION: re_evaluate,
}

_WEIGHTS = ("throughput_weight", "gpu_utilization_weight", "memory_efficiency_weight")
_BOUNDS = ("min_batch_size", "max_batch_size")
_GROWTH = ("probing_growth_factor", "max_probing_attempts")


def decide(state: TunerState, sample: Sample) -> None:
    """Hear one measurement of the present size and decide what comes next.

    Args:
        state: what the tuner knows; changed.
        sample: one window, or several combined.
    """
    state.consecutive_failures = 0
    state.total_mb = sample.memory_total_mb
    state.memory.observe(sample.batch_size_mean, sample.memory_peak_mb)
    state.step_time.observe(sample.batch_size_mean, sample.step_ms, sample.steps)
    if is_static(state.config):
        state.reason = f"holding {state.size}: {why_static(state.config)}"
        return
    evidence = state.settled(sample)
    if evidence is None:
        shown = "a batch that has only just settled" if state.settling_ms < state.settle_ms else sample.evidence.value
        state.reason = f"waiting at size {state.size}: the window shows {shown}"
    else:
        RULES[state.phase](state, sample, evidence)


def fail(state: TunerState) -> None:
    """Hear a window with a failed step at the present size: halve and probe again, or reset to the safe state.

    Nothing moves a size that is to be left alone.

    Args:
        state: what the tuner knows; changed.
    """
    state.consecutive_failures += 1
    if is_static(state.config):
        state.reason = f"a step failed at size {state.size}, which stays: {why_static(state.config)}"
        return
    if state.consecutive_failures >= state.config.max_consecutive_failures:
        state.enter_safe_state(f"{state.consecutive_failures} failures in a row")
        return
    failed = state.size
    half = max(state.config.min_batch_size, failed // 2)
    state.ceiling = (failed + half) // 2
    state.start_probe(half, f"a step failed at size {failed}: probing again from {half}")


def note_load(state: TunerState, arrivals: float, duration_ms: float) -> None:
    """Hear how many requests arrived, also in a window that measured nothing else.

    Args:
        state: what the tuner knows; changed.
        arrivals: requests.
        duration_ms: time they took to arrive, > 0.
    """
    if state.load.changed(arrivals, duration_ms, state.config.load_change_threshold):
        state.load_changed = True


def order_probe(state: TunerState) -> None:
    """Probe from the initial size because a person asked; a ceiling set by failures is lifted.

    Args:
        state: what the tuner knows; changed.
    """
    state.ceiling = None
    state.start_probe(state.config.initial_batch_size, "probing on manual trigger")


def order_size(state: TunerState, size: int) -> None:
    """Go on from a size that a person chose; the hybrid strategy locks it.

    Args:
        state: what the tuner knows; changed.
        size: within the configured bounds.
    """
    state.forget_scores()
    state.ceiling = None
    state.probe, state.probe_pending = None, False
    locked = state.config.strategy == "hybrid"
    state.phase = Phase.STABLE_RUNNING if locked else Phase.DYNAMIC_ADJUSTMENT
    state.move(size, f"size {size} was set by hand")


def order_config(state: TunerState, config: TunerConfig) -> None:
    """Go on under another configuration: sizes outside its bounds are left, scores by other weights forgotten.

    Args:
        state: what the tuner knows; changed.
        config: the new configuration.
    """
    old, state.config = state.config, config

    def differs(*keys: str) -> bool:
        return any(getattr(old, key) != getattr(config, key) for key in keys)

    if differs(*_WEIGHTS):
        state.board = ScoreBoard(config)
    if state.probe is not None and differs(*_WEIGHTS, *_BOUNDS, *_GROWTH):
        state.start_probe(config.initial_batch_size, "probing anew under the changed configuration")
    elif differs(*_WEIGHTS, *_BOUNDS):
        if state.phase is Phase.RE_EVALUATION:
            state.re_evaluate([state.size], "the configuration changed")
        state.board.forget()
        state.stability.clear()
        state.move(state.trial_home or state.size, "going on under the changed configuration")
        state.trial_home = None
    if is_static(config) and config.fixed_batch_size:
        state.move(config.fixed_batch_size, f"static at the fixed size {config.fixed_batch_size}")


def why_static(config: TunerConfig) -> str:
    """Why the size is left alone, for people.

    Args:
        config: a section that `is_static`.
    """
    return "the strategy is static" if config.enabled else "the tuner is disabled (enabled: false)"


def is_static(config: TunerConfig) -> bool:
    """Whether the configuration wants the size left alone.

    Args:
        config: the `dynamic_batch_tuner` section.
    """
    return not config.enabled or config.strategy == "static"
