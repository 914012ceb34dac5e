"""The planning tuner and its parts: what it guesses, how it searches, what it does to a server."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot.baselines import Setting
from batchpilot.configs.scenario import scenario
from batchpilot.core.actions import ActionTable
from batchpilot.core.details import IN_FLIGHT, WindowDetails
from batchpilot.core.limits import TRACKS, Limits
from batchpilot.core.metrics import WindowMetrics
from batchpilot.core.slo import SLO
from batchpilot.engines.simulated.engine import SimulatedEngine
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.envs.scenarios import prepare
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.tuners import make_tuner
from batchpilot.tuners.planning.search import CoordinateSearch
from batchpilot.tuners.planning.starting import starting_limits
from batchpilot.tuners.planning.traffic import Traffic
from batchpilot.tuners.registry import build_tuner

LATENCY = SaturationParameters(p_max=20.0, k_b=0.12, k_s=0.005, tau_0=10.0, tau_b=0.02, tau_c=1e-4)


def requests(arrival_ms, prompt=100, generated=0):
    known = np.zeros(len(arrival_ms), IN_FLIGHT)
    known["arrival_ms"], known["prompt_tokens"], known["generated_tokens"] = arrival_ms, prompt, generated
    known["computed_tokens"] = np.where(known["generated_tokens"] > 0, known["prompt_tokens"], 0)
    known["ttft_target_ms"], known["tpot_target_ms"] = 1000.0, 50.0
    known["first_token_ms"] = np.where(known["generated_tokens"] > 0, arrival_ms, np.nan)
    return known


def details(now_ms, arrivals=(), outputs=(), running=None, waiting=None):
    nobody = requests([])
    return WindowDetails(
        now_ms=now_ms,
        steps=np.empty((0, 5)),
        arrivals=requests(list(arrivals)),
        output_tokens=np.array(outputs, np.int64),
        running=nobody if running is None else running,
        waiting=nobody if waiting is None else waiting,
    )


@given(
    st.lists(st.floats(0, 10_000), min_size=3, max_size=60),
    st.lists(st.integers(1, 500), max_size=30),
    st.integers(0, 2**32),
)
@settings(max_examples=50, deadline=None)
def test_a_future_begins_with_who_is_in_flight_and_goes_on_with_the_past(arrivals, outputs, seed):
    traffic = Traffic()
    running, waiting = requests([1.0, 2.0], generated=[7, 400]), requests([3.0])
    now = details(10_000.0, sorted(arrivals), outputs, running, waiting)
    traffic.hear(now)
    for future in traffic.futures(now, 3, 4000.0, 1.0, np.random.default_rng(seed)):
        assert (future.running, future.waiting) == (2, 1)
        assert np.array_equal(future.requests["arrival_ms"][:3], [1.0, 2.0, 3.0])
        assert np.array_equal(future.requests["generated"][:3], [7, 400, 0])
        coming = future.requests[3:]
        assert np.all(np.diff(coming["arrival_ms"]) >= 0)
        assert np.all((coming["arrival_ms"] >= 10_000.0) & (coming["arrival_ms"] < 14_000.0))
        assert np.all(coming["generated"] == 0)
        assert np.all(future.requests["output"] > future.requests["generated"])


def test_together_the_futures_hold_the_past_in_its_own_proportion():
    traffic = Traffic()
    now = details(60_000.0, np.linspace(0, 60_000, 601)[:-1])
    traffic.hear(now)
    counts = [len(f.requests) for f in traffic.futures(now, 12, 5000.0, 1.0, np.random.default_rng(0))]
    assert all(abs(count - 50) <= 1 for count in counts)


def test_a_burst_stays_a_burst():
    traffic = Traffic()
    now = details(60_000.0, [*np.linspace(0, 59_000, 30), *np.linspace(30_000, 30_100, 100)])
    traffic.hear(now)
    counts = [len(f.requests) for f in traffic.futures(now, 12, 5000.0, 1.0, np.random.default_rng(0))]
    assert max(counts) > 90
    assert np.median(counts) < 10


def test_what_is_old_is_forgotten_but_never_everything():
    traffic = Traffic(memory_ms=10_000.0, fewest=5)
    traffic.hear(details(1000.0, np.linspace(0, 1000, 20)))
    traffic.hear(details(100_000.0, [99_000.0]))
    assert len(traffic.arrivals) == 5
    assert traffic.arrivals["arrival_ms"][-1] == 99_000.0


def test_the_search_finds_a_peak_beyond_a_plateau():
    table = ActionTable(TRACKS["limits"], Limits(256, 2048), "absolute")
    goal = table.to_limits(np.array([20, 12, 16]), 100.0)

    asked = set()

    def evaluate(positions, first, end):
        for place in ((*position.tolist(), future) for position in positions for future in range(first, end)):
            assert place not in asked, "a position in a future is tried once a pass"
            asked.add(place)
        far = np.abs(positions - [20, 12, 16])
        flat = far[:, 2] > 8  # unbounded queues are all alike
        value = np.where(flat, 0.0, 100.0 - far.sum(axis=1))
        return np.repeat(value[:, None], end - first, axis=1)

    anchor = position = table.start(100.0)
    for _ in range(4):
        asked.clear()
        position, value = CoordinateSearch(table).improve(anchor, position, evaluate)
    assert table.to_limits(position, 100.0) == goal
    assert value == 100.0


def test_the_search_returns_to_its_anchor_where_nothing_is_better():
    table = ActionTable(TRACKS["guarded"], Limits(256, 2048, ttft_guard=1.0, discipline="spf"), "absolute")
    anchor = table.start(100.0)
    wandered = anchor + 1
    wandered[-1] = 0
    alike = lambda positions, first, end: np.ones((len(positions), end - first))  # noqa: E731
    found, value = CoordinateSearch(table).improve(anchor, wandered, alike)
    assert np.array_equal(found, anchor)
    assert value == 1.0


@settings(deadline=None)  # the first call compiles
@given(st.floats(5, 500), st.floats(100, 20_000), st.sampled_from(sorted(TRACKS)))
def test_the_start_meets_the_promise_where_a_step_can(tpot_ms, ttft_ms, track):
    base = Limits(256, 2048)
    limits = starting_limits(TRACKS[track], base, LATENCY, SLO(ttft_ms, tpot_ms))
    assert limits.batch_size == 256
    if track == "batch":
        assert limits == base
    if track == "limits":
        step_ms = LATENCY.predict_one(32, limits.token_budget, 32_000)
        assert step_ms <= tpot_ms or limits.token_budget == 128
    if track == "guarded":
        assert (limits.step_target_ms, limits.ttft_guard, limits.discipline) == (0.95 * tpot_ms, 1.0, "spf")


def run(name, tuner, seed=0, **options):
    prepared = prepare(scenario(name), seed)
    slo = SLO(float(prepared.requests.ttft_target_ms.min()), float(prepared.requests.tpot_target_ms.min()))
    built = make_tuner(tuner, base=Limits(256, 2048), slo=slo, latency=prepared.engine.believed_latency(), **options)
    engine = SimulatedEngine(prepared.engine, prepared.requests, record_steps=True)
    return built, run_engine(engine, built, window_ms=prepared.window_ms, horizon_ms=40_000.0)


def test_a_plan_saves_a_server_from_its_queue():
    _, planned = run("overload-1.3-a100", "model-based")
    _, shipped = run("overload-1.3-a100", "static-default")
    assert planned.goodput_tokens_per_s > 1.3 * shipped.goodput_tokens_per_s
    assert planned.count("refused_on_arrival") > 0


def test_a_plan_that_has_taken_its_work_ends_with_what_it_has_found():
    def planned(**options):
        tuner = make_tuner("model-based", latency=LATENCY, slo=SLO(2000.0, 100.0), track="guarded", **options)
        tuner.study(details(5000.0, np.arange(0.0, 5000.0, 20.0), [300] * 9, waiting=requests([4000.0] * 60)))
        tuner.tell(WindowMetrics(limits=tuner.ask(), step_ms_mean=30.0, kv_capacity_tokens=100_000))
        return tuner._foresight.twin.work, tuner.status()["planned_tokens"]

    (stopped, worth), (whole, _) = planned(most_work=1), planned()
    assert 0 < stopped < whole
    assert worth > 0
    with pytest.raises(ValueError, match="most_work is 0"):
        planned(most_work=0)


def test_equal_seeds_plan_alike_and_a_copy_goes_on_alike():
    tuner, result = run("quick-burst", "model-based", track="guarded")
    again, same = run("quick-burst", "model-based", track="guarded")
    assert [w.limits for w in result.windows] == [w.limits for w in same.windows]
    copy = make_tuner("model-based", track="guarded", latency=LATENCY)
    copy.load_state_dict(json.loads(json.dumps(tuner.state_dict(), allow_nan=False)))
    following = details(45_000.0, [44_000.0, 44_500.0], [50])
    for one in (again, copy):
        one.study(following)
        one.tell(WindowMetrics(limits=one.ask(), kv_capacity_tokens=100_000))
    assert copy.ask() == again.ask()
    assert np.array_equal(copy.estimate, again.estimate)


@pytest.mark.parametrize("tuner", ["model-based", "guarded-adaptive"])
def test_the_estimate_follows_an_engine_that_slows_down(tuner):
    prepared = prepare(scenario("drift-throttle-a100"), 0)
    slow = prepared.engine.latency.scaled(1.6)
    built, _ = run("quick-chat", tuner, track="guarded")
    before = SaturationParameters(*built.estimate).predict_one(64, 512, 64_000)
    points = [(b, s, 1000.0 * b) for b in (8, 32, 64) for s in (64, 512)]
    steps = np.tile([(0.0, *point, slow.predict_one(*point)) for point in points], (4, 1))
    for k in range(40):
        built.study(replace(details(41_000.0 + 1000.0 * k), steps=steps))
        built.tell(WindowMetrics(limits=built.ask(), kv_capacity_tokens=100_000))
    after = SaturationParameters(*built.estimate).predict_one(64, 512, 64_000)
    truth = slow.predict_one(64, 512, 64_000)
    assert abs(after - truth) < 0.1 * truth < abs(before - truth)


def test_a_server_that_tells_only_metrics_gets_the_closed_form():
    tuner = make_tuner("model-based", slo=SLO(1000.0, 60.0), latency=LATENCY)
    start = tuner.ask()
    tuner.tell(WindowMetrics(limits=start, arrivals=5))
    assert tuner.ask() == start
    assert "only metrics" in tuner.status()["reason"]


def test_a_state_of_another_track_is_refused():
    state = make_tuner("model-based", track="guarded").state_dict()
    with pytest.raises(ValueError, match="ttft_guard"):
        make_tuner("model-based", track="limits").load_state_dict(state)


def behind_a_door(prepared, **changes):
    """A planner of a server that holds no token budget, as a gateway's."""
    slo = SLO(float(prepared.requests.ttft_target_ms.min()), float(prepared.requests.tpot_target_ms.min()))
    setting = Setting(base=Limits(256, 2048), slo=slo, track="guarded", latency=prepared.engine.believed_latency())
    return build_tuner("model-based", replace(setting, **changes))


def test_plans_leave_alone_what_the_server_cannot_hold_and_never_take_the_step_target_off():
    prepared = prepare(scenario("overload-1.3-a100"), 0)
    assert "token_budget" in behind_a_door(prepared).state_dict()["fields"]
    tuner = behind_a_door(prepared, not_held=("token_budget",))
    assert tuner.state_dict()["fields"] == ["step_target_ms", "ttft_guard"]
    asked = []
    tell = tuner.tell
    tuner.tell = lambda metrics: (tell(metrics), asked.append(tuner.ask()))
    engine = SimulatedEngine(prepared.engine, prepared.requests, record_steps=True)
    run_engine(engine, tuner, window_ms=1000.0, horizon_ms=20_000.0)
    promised_ms = float(prepared.requests.tpot_target_ms.max())
    assert len({limits.step_target_ms for limits in asked}) > 1
    assert {limits.token_budget for limits in asked} == {2048}
    assert all(limits.step_target_ms <= promised_ms for limits in asked)


def test_a_track_of_which_the_server_holds_nothing_is_refused():
    with pytest.raises(ValueError, match="cannot hold"):
        behind_a_door(prepare(scenario("quick-chat"), 0), track="batch", not_held=TRACKS["batch"])


def test_windows_that_tell_of_encoding_change_the_plan_and_a_copy_remembers():
    def planned(**told):
        tuner = make_tuner("model-based", latency=LATENCY, slo=SLO(1000.0, 50.0), track="guarded")
        tuner.study(details(5000.0, np.arange(0.0, 5000.0, 100.0), [20] * 50, waiting=requests([4900.0] * 5)))
        heard = {"step_ms_mean": 30.0, "kv_capacity_tokens": 100_000, "duration_ms": 5000.0}
        tuner.tell(WindowMetrics(limits=tuner.ask(), **heard, admitted_prompt_tokens=5000, **told))
        return tuner

    blind, none = planned(), planned(images=50, image_hits=50)
    seen = planned(images=50, image_hits=10, encode_ms=40 * 150.0)
    encoding = seen._foresight.encoding
    assert (encoding.image_ms, encoding.share(100.0)) == (150.0, 0.8)
    # Of 40 images in 5,000 tokens: prompts of 500 tokens have four of them each.
    assert (encoding.request_ms(100.0), encoding.share(500.0), encoding.request_ms(500.0)) == (150.0, 1.0, 600.0)
    assert none.status()["planned_tokens"] == blind.status()["planned_tokens"]
    assert seen.status()["planned_tokens"] < 0.8 * blind.status()["planned_tokens"]
    copy = make_tuner("model-based", latency=LATENCY, track="guarded")
    copy.load_state_dict(json.loads(json.dumps(seen.state_dict())))
    assert copy._foresight.encoding.share(100.0) == 0.8
    old = {name: value for name, value in blind.state_dict().items() if name != "encoding"}
    copy.load_state_dict(old)
    assert copy._foresight.encoding.share(100.0) == 0.0


def test_windows_that_tell_of_the_servers_own_drafts_change_the_plan_and_a_copy_remembers():
    def planned(drafts, limits=None, **told):
        tuner = make_tuner("model-based", latency=LATENCY, slo=SLO(1000.0, 50.0), track="guarded")
        tuner.study(details(5000.0, np.arange(0.0, 5000.0, 50.0), [60] * 100, waiting=requests([4900.0] * 5)))
        heard = {"step_ms_mean": 30.0, "kv_capacity_tokens": 100_000, "duration_ms": 5000.0}
        limits = replace(tuner.ask(), speculative_tokens=0) if limits is None else limits
        tuner.tell(WindowMetrics(limits=limits, **heard, drafts=drafts, **told))
        return tuner

    blind = planned(0)
    # Four tokens at a time, each right in 0.65 of the cases: 0.65 + 0.65^2 + 0.65^3 + 0.65^4 of them stand.
    seen = planned(1000, drafted_tokens=4000, accepted_tokens=1526)
    speculation = seen._foresight.drafting.speculation
    assert (speculation.drafted, speculation.draft_share) == (4, 0.0)
    assert speculation.acceptance == pytest.approx(0.65, abs=0.001)
    assert seen._foresight.drafting.tokens_a_step == pytest.approx(2.526)
    assert seen.status()["planned_tokens"] != blind.status()["planned_tokens"]
    copy = make_tuner("model-based", latency=LATENCY, track="guarded")
    copy.load_state_dict(json.loads(json.dumps(seen.state_dict())))
    assert copy._foresight.drafting.speculation == speculation
    copy.load_state_dict({name: value for name, value in blind.state_dict().items() if name != "drafting"})
    assert copy._foresight.drafting.speculation is None
    # What the limits ask for is no draft of the server's own.
    asked = planned(1000, Limits(64, speculative_tokens=4), drafted_tokens=4000, accepted_tokens=1526)
    assert asked._foresight.drafting.speculation is None
