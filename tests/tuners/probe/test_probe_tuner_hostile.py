"""Whatever a server reports, and whatever a person orders, the probe tuner stays within its bounds and goes on."""

import json
import math
import threading
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import Limits, WindowMetrics
from batchpilot.tuners import NotObeyedError, ProbeTuner, make_tuner

WEIRD = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e15, 1e300, 10**400])
NUMBER = WEIRD | st.floats(0.0, 1e6)
MEASURED = [
    "start_ms",
    "duration_ms",
    "busy_ms",
    "steps",
    "generated_tokens",
    "arrivals",
    "queue",
    "running",
    "oldest_wait_ms",
    "batch_size_mean",
    "step_ms_mean",
    "utilisation",
    "kv_used_fraction",
    "memory_used_mb",
    "memory_peak_mb",
    "memory_total_mb",
    "peak_tokens_per_s",
    "failures",
]
HOSTILE = st.dictionaries(st.sampled_from(MEASURED), NUMBER, max_size=6)
ORDERS = st.sampled_from(["tell", "tell", "tell", "tell", "other size", "probe", "size", "config", "reset"])


def plausible(size: int, index: int, score: float) -> dict[str, Any]:
    return {
        "start_ms": 1000.0 * index,
        "duration_ms": 1000.0,
        "busy_ms": 900.0,
        "steps": 40,
        "generated_tokens": int(2000 * score) + 1,
        "arrivals": 10,
        "queue": 5,
        "running": size,
        "oldest_wait_ms": 300.0,
        "batch_size_mean": float(size),
        "utilisation": 0.9,
        "memory_used_mb": 10_000.0 + 50.0 * size,
        "memory_peak_mb": 10_500.0 + 50.0 * size,
        "memory_total_mb": 16_000.0,
        "peak_tokens_per_s": 2000.0,
    }


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["dynamic", "hybrid", "static"]),
    st.lists(st.tuples(ORDERS, HOSTILE, st.floats(0.0, 1.0)), max_size=60),
    st.integers(1, 3),
)
def test_hostile_metrics_never_raise_and_never_leave_the_bounds(strategy, events, windows_per_decision):
    config = TunerConfig.from_dict(
        {"strategy": strategy, "min_batch_size": 2, "max_batch_size": 48, "fallback_level": "safe"}, warn=False
    )
    tuner = ProbeTuner(config, windows_per_decision=windows_per_decision)
    for index, (order, changes, score) in enumerate(events):
        limits = tuner.ask()
        if order == "other size":
            limits = Limits(limits.batch_size + 1)
        elif order == "probe":
            with suppress(NotObeyedError):
                tuner.trigger_probe()
        elif order == "size":
            with suppress(NotObeyedError):
                tuner.set_batch_size(2 + int(46 * score))
        elif order == "config":
            tuner.update_config({"growth_coefficient": 0.1 + 0.4 * score})
        elif order == "reset":
            tuner.reset()
        measured = plausible(limits.batch_size, index, score)
        tuner.tell(WindowMetrics(limits=limits, **{**measured, **changes}))
        assert 2 <= tuner.ask().batch_size <= 48
        json.dumps(tuner.status(), allow_nan=False)
    json.dumps(tuner.state_dict(), allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["dynamic", "hybrid"]),
    st.lists(st.tuples(HOSTILE, st.floats(0.0, 1.0)), min_size=1, max_size=60),
    st.data(),
)
def test_a_loaded_tuner_continues_exactly_like_the_original(strategy, events, data):
    original = make_tuner(strategy, base=Limits(8, token_budget=512))
    copy = make_tuner("dynamic")
    moved_at = data.draw(st.integers(0, len(events) - 1))
    for index, (changes, score) in enumerate(events):
        if index == moved_at:
            copy.load_state_dict(json.loads(json.dumps(original.state_dict(), allow_nan=False)))
        limits = original.ask()
        window = WindowMetrics(limits=limits, **{**plausible(limits.batch_size, index, score), **changes})
        original.tell(window)
        if index >= moved_at:
            copy.tell(window)
            assert copy.ask() == original.ask()
            assert copy.status() == original.status()
    assert copy.state_dict() == original.state_dict()
    assert copy.name == original.name


@given(st.lists(st.floats(0.0, 1.0), min_size=30, max_size=60))
@settings(max_examples=20, deadline=None)
def test_the_same_windows_give_the_same_sizes(scores):
    def sizes() -> list[int]:
        tuner = make_tuner("dynamic", seed=1)
        asked = []
        for index, score in enumerate(scores):
            limits = tuner.ask()
            asked.append(limits.batch_size)
            tuner.tell(WindowMetrics(limits=limits, **plausible(limits.batch_size, index, score)))
        return asked

    assert sizes() == sizes()


def test_repeated_failures_end_at_the_minimum_and_stay_alive():
    tuner = make_tuner("dynamic")
    for index in range(100):
        limits = tuner.ask()
        tuner.tell(WindowMetrics(limits=limits, **plausible(limits.batch_size, index, 0.5), failures=1))
    assert tuner.ask().batch_size == 1
    assert tuner.status()["windows_failed"] == 100


@pytest.mark.parametrize("missing", ["config", "state", "counts", "pending", "clock_ms", "base"])
def test_an_incomplete_state_is_refused_and_changes_nothing(missing):
    tuner = make_tuner("dynamic")
    before = tuner.state_dict()
    with pytest.raises(ValueError, match=missing):
        tuner.load_state_dict({key: value for key, value in before.items() if key != missing})
    assert tuner.state_dict() == before


def test_a_state_without_a_part_is_refused():
    tuner = make_tuner("dynamic")
    state = tuner.state_dict()
    del state["state"]["board"]
    with pytest.raises(ValueError, match="board"):
        tuner.load_state_dict(state)


def test_another_tuners_state_is_refused():
    with pytest.raises(ValueError, match="static"):
        make_tuner("dynamic").load_state_dict(make_tuner("static-8").state_dict())


def test_threads_may_tell_and_order_at_once():
    tuner = make_tuner("dynamic")
    assert isinstance(tuner, ProbeTuner)
    errors: list[Exception] = []

    def work(seed: int) -> None:
        try:
            for index in range(300):
                limits = tuner.ask()
                tuner.tell(WindowMetrics(limits=limits, **plausible(limits.batch_size, index, (index % 7) / 7)))
                if index % 50 == seed:
                    tuner.trigger_probe()
                    tuner.set_batch_size(8 + seed)
                tuner.status()
        except Exception as error:  # noqa: BLE001 - a thread's error must reach the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert tuner.status()["windows_heard"] == 1200
