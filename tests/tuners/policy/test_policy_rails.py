"""Each rail holds what it promises, lets go again, and shows what it does."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_samples import BASE, always, make_description, make_policy_bytes, make_window

from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import Limits
from batchpilot.core.features import FEATURE_HIGH, FEATURE_LOW, window_features
from batchpilot.serving import load_policy, make_tuner
from batchpilot.tuners.rails import Bounds, CollapseGuard, Idle, KVMemory, OutOfMemory, RailedTuner

HOLD, UP, DOWN = 2, 3, 1


@pytest.fixture
def load(tmp_path):
    """Loads a policy that always takes the same actions, between rails."""

    def build(actions, description=None, **options):
        path = tmp_path / "policy.onnx"
        path.write_bytes(always(actions, description))
        return load_policy(path, **options)

    return build


def tell(tuner, windows=1, start=0, **changes):
    for index in range(start, start + windows):
        tuner.tell(make_window(tuner.ask(), index, **changes))
    return start + windows


def test_rails_are_on_by_default_and_say_so(load):
    status = load([HOLD] * 3).status()
    assert status["rails"] == "trained_range, idle, collapse, bounds, kv_memory, out_of_memory"
    assert status["rails_acting"] == ""
    assert "rails" not in load([HOLD] * 3, rails=False).status()


def test_bounds_without_rails_are_refused(load):
    with pytest.raises(ValueError, match="rails are off"):
        load([HOLD] * 3, rails=False, bounds=Bounds())


def test_bounds_hold_the_policy_where_the_operator_wants_it(load):
    tuner = load([UP, UP, HOLD], bounds=Bounds(highest=Limits(300, token_budget=2048)))
    tell(tuner, 5)
    assert tuner.ask() == Limits(300, token_budget=2048)
    status = tuner.status()
    assert status["rails_acting"] == "bounds"
    assert status["reason"] == "held at the operator's batch_size=300, token_budget=2048"
    assert status["rail_bounds_windows"] == 5


def test_a_policy_does_not_wind_up_against_a_bound(load):
    tuner = load([UP, HOLD, HOLD], bounds=Bounds(highest=Limits(256)))
    tell(tuner, 20)
    assert tuner.status()["uncredited_windows"] == 0
    wish = Limits.from_dict(tuner.state_dict()["inner"]["limits"])
    assert (wish.batch_size, tuner.ask().batch_size) == (304, 256)


def test_a_cap_on_one_limit_leaves_the_others_free(load):
    # Until 2026-11-29 every limit stood still while one was capped: on a server short of KV cache a policy could not
    # bound its queue, and served a quarter of what it serves without rails.
    free, capped = load([HOLD, DOWN, DOWN]), load([HOLD, DOWN, DOWN], bounds=Bounds(highest=Limits(100)))
    tell(free, 6)
    tell(capped, 6)
    assert capped.ask().batch_size == 100 < free.ask().batch_size
    assert free.ask().token_budget < BASE.token_budget
    assert capped.ask() == free.ask().replace(batch_size=100)


def test_a_cap_that_is_lifted_leaves_the_policy_where_it_was(load):
    tuner = load([HOLD] * 3)
    tell(tuner, batch_size_mean=1.0, context_tokens_mean=20_000.0, kv_capacity_tokens=100_000)
    assert tuner.ask().batch_size == 5
    tell(tuner, 1, 1)
    assert tuner.ask() == BASE
    assert tuner.status()["uncredited_windows"] == 0


limits = st.builds(
    Limits,
    batch_size=st.integers(1, 2000),
    token_budget=st.none() | st.integers(1, 50_000),
    step_target_ms=st.none() | st.floats(0.1, 1e4),
)


@given(limits, limits, limits)
def test_bounded_limits_are_within_bounds_and_bounding_twice_changes_nothing(proposed, one, other):
    low, high = (one, other) if one.batch_size <= other.batch_size else (other, one)
    low, high = Limits(low.batch_size), Limits(high.batch_size, token_budget=other.token_budget)
    bounds = Bounds(low, high)
    allowed = bounds.allow(proposed)
    assert low.batch_size <= allowed.batch_size <= high.batch_size
    assert high.token_budget is None or allowed.token_budget <= high.token_budget
    assert bounds.allow(allowed) is allowed


def test_bounds_in_disorder_are_refused():
    with pytest.raises(ValueError, match="lowest batch_size 8 is above the highest 4"):
        Bounds(Limits(8), Limits(4))


def test_only_bounds_that_the_operator_stated_are_the_operators(tmp_path):
    path = tmp_path / "policy.onnx"
    path.write_bytes(always([UP, HOLD, HOLD]))
    free, held = make_tuner("policy", path=path), make_tuner("policy", TunerConfig(max_batch_size=100), path=path)
    tell(free, 2)
    tell(held, 2)
    assert (free.ask().batch_size, held.ask().batch_size) == (362, 100)


def test_the_batch_never_exceeds_what_the_kv_cache_holds(load):
    tuner = load([HOLD] * 3)
    tell(tuner, batch_size_mean=10.0, context_tokens_mean=20_000.0, kv_capacity_tokens=100_000)
    assert tuner.ask().batch_size == 50
    assert "the KV cache holds 50 requests" in tuner.status()["reason"]


@given(st.floats(1, 500), st.floats(1, 1e6), st.integers(0, 10**7))
def test_the_memory_check_allows_as_many_contexts_as_fit(size, context, capacity):
    rail = KVMemory()
    window = make_window(BASE, batch_size_mean=size, context_tokens_mean=context, kv_capacity_tokens=capacity)
    rail.hear(window)
    allowed = rail.allow(Limits(1024)).batch_size
    if capacity:
        assert allowed == 1 or allowed * context / size <= capacity * (1 + 1e-9)
    else:
        assert allowed == 1024


def test_the_shortest_context_of_the_last_ten_windows_counts():
    rail = KVMemory()
    for index, context in enumerate([1000.0, *[10_000.0] * 10]):
        assert rail.allow(Limits(500)).batch_size == (500 if index == 0 else 100)
        window = make_window(BASE, index, batch_size_mean=1.0, context_tokens_mean=context, kv_capacity_tokens=100_000)
        rail.hear(window)
    assert rail.allow(Limits(500)).batch_size == 10


def test_an_idle_window_leaves_the_memory_check_as_it_is(load):
    tuner = load([UP, HOLD, HOLD])
    tell(tuner, batch_size_mean=10.0, context_tokens_mean=20_000.0, kv_capacity_tokens=100_000)
    tell(tuner, 3, 1, steps=0, batch_size_mean=0.0, context_tokens_mean=0.0)
    assert tuner.ask().batch_size == 50


def test_out_of_memory_halves_holds_and_recovers_slowly(load):
    tuner = load([UP, UP, HOLD])
    index = tell(tuner, failures=1)
    assert tuner.ask() == Limits(128, token_budget=1024)
    index = tell(tuner, 10, index)
    assert tuner.ask() == Limits(128, token_budget=1024)
    sizes = []
    for _ in range(8):
        index = tell(tuner, 1, index)
        sizes.append(tuner.ask().batch_size)
    assert sizes == sorted(sizes)
    assert sizes[-1] == int(0.9 * 256)
    tell(tuner, 300, index)
    assert tuner.ask().batch_size > 256


def test_failures_in_a_row_lead_to_the_safe_state(load):
    tuner = load([UP, UP, HOLD])
    tell(tuner, 3, failures=1)
    assert tuner.ask() == Limits(1, token_budget=64)
    assert tuner.status()["reason"].startswith("safe state: 3 windows in a row")


def test_a_late_failure_is_answered_once():
    rail = OutOfMemory()
    for index in range(4):
        rail.hear(make_window(BASE, index, failures=1))
    assert rail.allow(BASE) == Limits(128, token_budget=1024)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 1024), st.integers(64, 16_384)), max_size=60))
def test_a_ceiling_is_always_below_the_last_failure(windows):
    rail, failed = OutOfMemory(), None
    for index, (failures, size, tokens) in enumerate(windows):
        allowed = rail.allow(Limits(size, token_budget=tokens))
        rail.hear(make_window(allowed, index, failures=failures))
        failed = allowed if failures else failed
        after = rail.allow(Limits(1024, token_budget=16_384))
        assert failed is None or after.batch_size <= max(1, 0.9 * failed.batch_size)
        assert failed is None or after.token_budget <= max(64, 0.9 * failed.token_budget)


def test_inputs_outside_the_trained_range_bring_back_the_last_good_limits(load):
    known = window_features(make_window(BASE))
    spread = 0.1 * (FEATURE_HIGH - FEATURE_LOW)
    described = make_description(
        observation_low=tuple((known - spread).tolist()), observation_high=tuple((known + spread).tolist())
    )
    tuner = load([DOWN, HOLD, HOLD], described)
    tell(tuner)
    good = tuner.ask()
    index = tell(tuner, 1, 1)
    moved = tuner.ask()
    tell(tuner, 3, index, slo_attainment=0.0)
    assert tuner.ask() == good != moved
    status = tuner.status()
    assert status["rails_acting"] == "trained_range"
    assert "outside the trained range" in status["reason"]
    assert "slo_attainment at 0.00" in status["reason"]


def test_without_a_recorded_range_every_input_is_known(load):
    tuner = load([DOWN, HOLD, HOLD])
    tell(tuner, 5, slo_attainment=0.0, completions=0, steps=0)
    assert tuner.status()["rail_trained_range_windows"] == 0


def test_a_policy_does_not_move_while_there_is_nothing_to_do(load):
    tuner = load([UP, UP, HOLD])
    after = tell(tuner, 2)
    moved = tuner.ask()
    assert moved != BASE
    nothing = {"steps": 0, "arrivals": 0, "queue": 0, "running": 0, "completions": 0, "slo_attainment": math.nan}
    tell(tuner, 5, after, **nothing)
    assert tuner.ask() == moved
    assert tuner.status()["rails_acting"] == "idle"
    tell(tuner, 1, after + 5)
    assert tuner.ask() != moved
    assert tuner.status()["rails_acting"] == ""


@pytest.mark.parametrize("work", [{"queue": 1}, {"running": 1}, {"arrivals": 1}])
def test_a_server_that_has_only_just_something_to_do_is_not_idle(work):
    rail = Idle(BASE)
    nothing = {"steps": 0, "arrivals": 0, "queue": 0, "running": 0}
    rail.hear(make_window(BASE, 0, **(nothing | work)))
    assert rail.allow(Limits(7)) == Limits(7)
    rail.hear(make_window(BASE, 1, **nothing))
    assert rail.allow(Limits(7)) == BASE


def test_a_collapse_returns_to_the_base_limits_and_longer_each_time(load):
    tuner = load([DOWN, HOLD, HOLD], make_description())
    index = tell(tuner, 10, slo_attainment=0.95)
    spells, held = [], 0
    for _ in range(400):
        at_base = tuner.ask() == BASE
        index = tell(tuner, 1, index, slo_attainment=0.95 if at_base else 0.05)
        acting = "collapse" in tuner.status()["rails_acting"]
        if acting:
            held += 1
        elif held:
            spells.append(held)
            held = 0
    assert spells[:4] == [20, 40, 80, 160]
    assert tuner.status()["rail_collapse_windows"] >= 300


def test_an_overload_that_no_limits_can_serve_lets_the_policy_go_on(load):
    tuner = load([DOWN, HOLD, HOLD])
    index = tell(tuner, 10, slo_attainment=0.95)
    tell(tuner, 300, index, slo_attainment=0.1)
    assert tuner.status()["rail_collapse_windows"] == 20


def test_a_collapse_is_not_judged_by_a_few_requests():
    rail = CollapseGuard(BASE)
    rail.hear(make_window(BASE, slo_attainment=1.0, completions=200))
    rail.reset()
    for index in range(3):
        rail.hear(make_window(Limits(8), index, slo_attainment=0.0, completions=10))
    assert rail.allow(Limits(8)) == Limits(8)


def test_an_odd_window_moves_no_rail(load):
    tuner = load([UP, UP, HOLD])
    tell(tuner, failures=1, start_ms=math.nan)
    assert tuner.ask() == BASE
    assert tuner.status()["odd_windows"] == 1


def test_rails_go_round_any_tuner():
    tuner = RailedTuner(make_tuner("static-64", base=BASE), [KVMemory(), OutOfMemory()])
    assert tuner.name == "static-64"
    tell(tuner, failures=1)
    assert tuner.ask().batch_size == 32
    assert tuner.status()["rails_acting"] == "out_of_memory"
    saved = json.loads(json.dumps(tuner.state_dict(), allow_nan=False))
    copy = RailedTuner(make_tuner("static-64", base=BASE), [KVMemory(), OutOfMemory()])
    copy.load_state_dict(saved)
    assert (copy.ask(), copy.status()) == (tuner.ask(), tuner.status())


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1), st.floats(1, 1e5), st.floats(1, 64)), max_size=80))
def test_whatever_happens_the_limits_keep_every_promise_of_the_rails(windows):
    from batchpilot.tuners.policy import PolicyTuner
    from batchpilot.tuners.policy.file import parse_policy

    policy = PolicyTuner(parse_policy(make_policy_bytes(seed=4)))
    memory, bounds = KVMemory(), Bounds(Limits(2), Limits(300, token_budget=4096))
    tuner = RailedTuner(policy, [CollapseGuard(BASE), bounds, memory, OutOfMemory()])
    fitting = []
    for index, (attainment, failures, context, size) in enumerate(windows):
        fitting.append(max(1, 400_000 * size / context))
        window = make_window(
            tuner.ask(),
            index,
            slo_attainment=attainment,
            failures=failures,
            context_tokens_mean=context,
            batch_size_mean=size,
        )
        tuner.tell(window)
        asked = tuner.ask()
        assert asked.batch_size <= min(300, max(fitting[-10:]))
        assert asked.token_budget <= 4096
    assert tuner.status()["uncredited_windows"] == 0
