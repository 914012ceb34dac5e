"""What holds for every controller of the field, whatever it is told."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot.baselines import BASELINES
from batchpilot.baselines.controllers.by_name import CONTROLLERS
from batchpilot.baselines.controllers.load_rule import DISCIPLINE_AT
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import SLO, Limits, WindowMetrics
from batchpilot.tuners import make_tuner

CONFIG = TunerConfig(min_batch_size=2, max_batch_size=80, initial_batch_size=8)
BASE = Limits(256, token_budget=4096, discipline="spf")

names = st.sampled_from(list(CONTROLLERS))
odd = st.floats() | st.integers(-5, 10**6) | st.just(math.nan) | st.just(10**400)
counts = st.integers(0, 200)
spans = st.floats(0.0, 5000.0)
latencies = st.floats(0.0, 1e5) | st.just(math.nan)
sane = st.fixed_dictionaries(
    {
        "duration_ms": spans,
        "busy_ms": spans,
        "steps": counts,
        "generated_tokens": counts,
        "prefill_tokens": counts,
        "arrivals": counts,
        "arrived_prompt_tokens": counts,
        "completions": counts,
        "failures": st.integers(0, 1),
        "queue": counts,
        "running": counts,
        "batch_size_mean": st.floats(0.0, 64.0),
        "step_ms_mean": latencies,
        "ttft_ms_p50": latencies,
        "tpot_ms_p50": latencies,
        "kv_capacity_tokens": st.integers(0, 10**6),
        "ttft_target_ms": latencies | st.just(math.inf),
        "tpot_target_ms": latencies | st.just(math.inf),
    }
)
changed = st.dictionaries(st.sampled_from([*WindowMetrics.__dataclass_fields__][1:]), odd, max_size=4)


def tell(tuner, window: dict, start_ms: float) -> Limits:
    tuner.tell(WindowMetrics(**{"limits": tuner.ask(), "start_ms": start_ms, **window}))
    return tuner.ask()


@settings(deadline=None)
@given(names, st.lists(st.tuples(sane, st.just({}) | changed), max_size=25), st.booleans())
def test_limits_stay_in_bounds_and_odd_windows_never_raise(name, windows, promised):
    tuner = make_tuner(name, CONFIG, base=BASE, slo=SLO() if promised else None)
    for second, (window, change) in enumerate(windows):
        limits = tell(tuner, window | change, 1000.0 * second)
        assert 2 <= limits.batch_size <= (256 if name.startswith(("queue", "load", "p-pas")) else 80)
        assert limits.token_budget == 4096 or (name == "p-pas" and 2048 < limits.token_budget <= 16_384)
        assert limits.discipline in (DISCIPLINE_AT if name == "load-rule" else ("spf",))
        assert isinstance(tuner.status()["reason"], str)


@pytest.mark.parametrize("value", [10**400, -1.0, 1e300])
@pytest.mark.parametrize("name", ["memory-guard", "memory-aware", "gradient2"])
@pytest.mark.parametrize("field", [*WindowMetrics.__dataclass_fields__][1:])
def test_a_number_that_no_window_holds_is_heard_and_moves_nothing(name, field, value):
    tuner = make_tuner(name, CONFIG, base=BASE, slo=SLO())
    before = tuner.ask()
    tell(
        tuner, {"steps": 3, "running": 2, "queue": 1, "memory_peak_mb": 1.0, "memory_total_mb": 2.0, field: value}, 0.0
    )
    assert tuner.ask() == before
    assert tuner.status()["odd_windows"] == 1


@settings(deadline=None)
@given(names, st.lists(sane, max_size=15), st.lists(sane, max_size=10), st.integers(0, 3))
def test_a_saved_tuner_goes_on_as_if_nothing_had_been(name, before, after, seed):
    tuner = make_tuner(name, CONFIG, base=BASE, slo=SLO(), seed=seed)
    for second, window in enumerate(before):
        tell(tuner, window, 1000.0 * second)
    copy = make_tuner(name, CONFIG, slo=SLO())
    copy.load_state_dict(json.loads(json.dumps(tuner.state_dict())))
    assert copy.ask() == tuner.ask()
    for second, window in enumerate(after, len(before)):
        assert tell(copy, window, 1000.0 * second) == tell(tuner, window, 1000.0 * second)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_state_that_is_not_its_own_is_refused_and_changes_nothing(name):
    tuner = make_tuner(name)
    saved = tuner.state_dict()
    for wrong in (
        {},
        {**saved, "tuner": "other"},
        {key: value for key, value in saved.items() if key != "rule"},
        {**saved, "rule": {}},
        {**saved, "rule": {**saved["rule"], "base": "huge"}},
        {**saved, "limits": {"batch_size": 0}},
    ):
        with pytest.raises(ValueError, match=r"state|field|batch_size|kind"):
            tuner.load_state_dict(wrong)
    assert tuner.state_dict() == saved


@pytest.mark.parametrize("name", CONTROLLERS)
def test_reset_forgets_everything(name):
    tuner = make_tuner(name, slo=SLO())
    fresh = tuner.state_dict()
    busy = {"duration_ms": 1000.0, "busy_ms": 900.0, "steps": 50, "completions": 20, "tpot_ms_p50": 30.0, "queue": 9}
    for second in range(30):
        tell(tuner, {**busy, "prefill_tokens": 900, "arrivals": 20, "batch_size_mean": 12.0}, 1000.0 * second)
    assert tuner.state_dict() != fresh
    tuner.reset()
    assert tuner.state_dict() == fresh


@pytest.mark.parametrize("name", CONTROLLERS)
def test_windows_of_other_limits_and_of_an_earlier_time_change_nothing(name):
    tuner = make_tuner(name, slo=SLO())
    tell(tuner, {}, 5000.0)
    rule = tuner.state_dict()["rule"]
    tuner.tell(WindowMetrics(limits=Limits(3), start_ms=6000.0, steps=9, completions=50, tpot_ms_p50=1.0))
    tell(tuner, {"steps": 9, "completions": 50, "tpot_ms_p50": 1.0}, 4000.0)
    tell(tuner, {"steps": -1}, 7000.0)
    assert tuner.state_dict()["rule"] == rule
    assert (tuner.status()["windows_heard"], tuner.status()["odd_windows"]) == (4, 2)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_every_controller_is_a_baseline_that_knows_its_name(name):
    assert BASELINES[name] is CONTROLLERS[name]
    assert make_tuner(name).name == name
