"""The digital twin: what it says of the present moment is what the engine then does."""

from dataclasses import replace

import numpy as np
import pytest

from batchpilot.core.limit_arrays import limit_arrays
from batchpilot.core.limits import Limits
from batchpilot.core.slo import SLO
from batchpilot.core.speculation import Speculation
from batchpilot.engines.scheduler.details import DetailsReader, as_requests
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.engines.simulated.engine import SimulatedEngine
from batchpilot.engines.simulated.twin import Future, Horizon, Twin
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.model.vision_tower import VisionTower
from batchpilot.workloads.images import Images
from batchpilot.workloads.table import RequestTable

LATENCY = SaturationParameters(p_max=20.0, k_b=0.12, k_s=0.005, tau_0=10.0, tau_b=0.02, tau_c=1e-4)
KV_TOKENS = 60_000
SETTINGS = [Limits(256, 2048), Limits(16, 512), Limits(64, 1024, max_queued_tokens=4000), Limits(256, 8192)]
GUARDED = Limits(256, 2048, step_target_ms=60.0, ttft_guard=1.0, discipline="spf")


def busy_engine(seed, **options):
    rng = np.random.default_rng(seed)
    n = 200
    requests = RequestTable.from_arrays(
        np.sort(rng.uniform(0, 20_000, n)),
        rng.integers(50, 3000, n),
        rng.integers(2, 300, n),
        slos=SLO(2000.0, 80.0),
    )
    config = EngineConfig(LATENCY, LATENCY, kv_capacity_tokens=KV_TOKENS)
    return SimulatedEngine(config, requests, **options)


def true_future(engine, details):
    """What really comes: the output lengths that no server knows, and every request still to arrive."""
    s = engine.state
    c = s.clock[0]
    flying = np.concatenate([s.slots["running"][: c.n_running], np.sort(s.lines["waiting"][: c.n_queue])])
    coming = np.array(s.requests[c.next_arrival : c.n_requests])
    known = as_requests(np.concatenate([details.running, details.waiting]))
    known["output"] = s.requests["output"][flying]
    return Future(np.concatenate([known, coming]), len(details.running), len(details.waiting))


def values(candidates, futures, kv_tokens, horizon, twin=None):
    twin = twin or Twin()
    twin.look(futures, LATENCY, kv_tokens, horizon)
    return twin.values(candidates)


@pytest.mark.parametrize("limits", [*SETTINGS, GUARDED])
@pytest.mark.parametrize("seed", [0, 1])
def test_with_the_true_future_the_twin_foretells_what_the_engine_does(limits, seed):
    engine = busy_engine(seed)
    reader = DetailsReader(engine)
    engine.set_limits(SETTINGS[0])
    engine.run_until(8000.0)
    details = reader.read()
    future = true_future(engine, details)
    in_flight_before = set(np.concatenate([engine.state.slots["running"][: engine.state.clock[0].n_running]]).tolist())
    horizon = Horizon(engine.now_ms, 1e9, 1e9)
    told = values(limit_arrays([limits]), [future], KV_TOKENS, horizon)[0, 0]

    ended_before = engine.state.clock[0].n_ended
    engine.set_limits(limits)
    engine.run_until(np.inf)
    s = engine.state
    ended = s.slots["ended"][ended_before : s.clock[0].n_ended]
    done = s.requests[ended]
    in_time = done["first_ms"] - done["arrival_ms"] <= done["ttft_target_ms"]
    pace = (done["finish_ms"] - done["first_ms"]) <= done["tpot_target_ms"] * np.maximum(done["generated"] - 1, 0)
    served = (done["reason"] == 1) & in_time & (pace | (done["generated"] < 2))
    assert told == done["output"][served].sum() > 0
    assert in_flight_before  # else this would say nothing of requests under way


def test_every_candidate_meets_the_same_futures_and_order_does_not_matter():
    engine = busy_engine(3)
    engine.set_limits(SETTINGS[0])
    engine.run_until(6000.0)
    details = DetailsReader(engine).read()
    future = true_future(engine, details)
    shorter = Future(future.requests[: details.running.size + details.waiting.size + 5], future.running, future.waiting)
    horizon = Horizon(engine.now_ms, 4000.0, 8000.0, doomed_price=0.1)
    twin = Twin()
    together = values(limit_arrays(SETTINGS), [future, shorter], KV_TOKENS, horizon, twin)
    backwards = values(limit_arrays(SETTINGS[::-1]), [shorter, future], KV_TOKENS, horizon, twin)
    alone = [values(limit_arrays([one]), [future], KV_TOKENS, horizon)[0, 0] for one in SETTINGS]
    last = twin.values(limit_arrays(SETTINGS[:2]), 1)
    assert together.shape == (4, 2)
    assert np.array_equal(together, backwards[::-1, ::-1])
    assert np.array_equal(together[:, 0], alone)
    assert np.array_equal(last, together[:2, :1])


@pytest.mark.parametrize("discipline", ["fcfs", "fair"])
def test_what_was_tried_before_changes_nothing_though_refusals_are_bounded(discipline):
    engine = busy_engine(4)
    engine.set_limits(SETTINGS[0])
    engine.run_until(6000.0)
    future = true_future(engine, DetailsReader(engine).read())
    bounded = limit_arrays([GUARDED.replace(discipline=discipline, refusal_bound=0.0, ttft_guard=0.2)])
    twin = Twin()
    first = values(bounded, [future], KV_TOKENS, Horizon(engine.now_ms, 1e9, 1e9), twin)
    again = [twin.values(bounded) for _ in range(3)]
    assert np.array_equal(again, [first] * 3)
    assert first > 0


def test_doomed_prompts_have_their_price():
    late = np.zeros(1, as_requests(np.empty(0, DetailsReader(busy_engine(0)).read().waiting.dtype)).dtype)
    late["prompt"], late["output"], late["arrival_ms"] = 5000, 10, -60_000.0
    late["ttft_target_ms"], late["tpot_target_ms"], late["first_ms"] = 1000.0, 100.0, np.nan
    one = limit_arrays([Limits(1, 16)])
    told = [values(one, [Future(late, 0, 1)], 0, Horizon(0.0, 1.0, 1.0, price))[0, 0] for price in (0.0, 0.5)]
    computed = 16  # the one step that fits
    assert told[0] == 0.0
    assert told[1] == -0.5 * (5000 - computed)


def test_details_tell_every_arrival_step_and_output_once():
    engine = busy_engine(5, record_steps=True)
    engine.set_limits(SETTINGS[2])
    reader = DetailsReader(engine)
    read = []
    while not engine.finished:
        engine.run_until(engine.now_ms + 700.0)
        read.append(reader.read())
    assert np.array_equal(np.concatenate([one.steps for one in read]), engine.step_log())
    assert sum(len(one.arrivals) for one in read) == len(engine.requests)
    finished = engine.state.requests["reason"][:200] == 1
    assert sorted(np.concatenate([one.output_tokens for one in read])) == sorted(
        engine.requests.output_tokens[finished]
    )
    assert len(read[-1].running) == len(read[-1].waiting) == 0


def test_the_step_log_can_be_read_from_any_step_on():
    requests = RequestTable.from_arrays([0.0] * 4, [10] * 4, [3000] * 4, slos=SLO(2000.0, 80.0))
    engine = SimulatedEngine(EngineConfig(LATENCY), requests, record_steps=True)
    engine.set_limits(Limits(1))
    engine.run_until(np.inf)
    whole = engine.step_log()
    assert len(whole) > 2 * 4096
    for since in (0, 1, 4095, 4096, 4097, 8192, len(whole) - 1, len(whole)):
        assert np.array_equal(engine.step_log(since), whole[since:])


def test_images_to_encode_take_their_time_in_the_twin_as_in_the_engine():
    images = Images.from_arrays([224] * 40)
    requests = RequestTable.from_arrays(
        np.arange(40) * 100.0, [300] * 40, [20] * 40, slos=SLO(1500.0, 80.0), images=images
    )
    tower = VisionTower(pass_ms=0.0, token_ms=150.0 / 256, together=1, feature_cache=0)
    engine = SimulatedEngine(EngineConfig(LATENCY, LATENCY, kv_capacity_tokens=KV_TOKENS, vision=tower), requests)
    engine.set_limits(SETTINGS[0])
    engine.run_until(1000.0)
    details = DetailsReader(engine).read()
    future = true_future(engine, details)
    shown = replace(future, to_encode=np.arange(len(future.requests)) >= future.running)
    horizon = Horizon(engine.now_ms, 1e9, 1e9)
    candidates = limit_arrays([Limits(256, 2048, ttft_guard=1.0), Limits(256, 2048)])
    twin = Twin()
    told = []
    for guess, image_ms in ((future, 0.0), (shown, 150.0), (future, 0.0)):
        twin.look([guess], LATENCY, KV_TOKENS, horizon, image_ms=image_ms)
        told.append(twin.values(candidates)[:, 0])
    before = int(engine.state.clock[0].n_ended)
    engine.set_limits(Limits(256, 2048, ttft_guard=1.0))
    engine.run_until(np.inf)
    s = engine.state
    done = s.requests[s.slots["ended"][before : s.clock[0].n_ended]]
    pace = (done["finish_ms"] - done["first_ms"]) <= done["tpot_target_ms"] * (done["generated"] - 1)
    in_time = done["first_ms"] - done["arrival_ms"] <= done["ttft_target_ms"]
    assert told[1][0] == done["output"][(done["reason"] == 1) & pace & in_time].sum()
    assert told[0][0] == told[0][1]  # blind to encoding, a guard changes nothing
    assert told[1][0] > 1.5 * told[1][1]  # seen, it saves most of what would be served
    assert np.array_equal(told[0], told[2])  # what was tried with images leaves no trace


def test_a_server_that_drafts_by_itself_is_worth_what_limits_that_ask_for_it_are():
    engine = busy_engine(4)
    engine.set_limits(SETTINGS[0])
    engine.run_until(6000.0)
    future = true_future(engine, DetailsReader(engine).read())
    horizon = Horizon(engine.now_ms, 4000.0, 8000.0)
    twin = Twin()
    worth = {}
    for drafted in (0, 4):
        fares = Speculation(acceptance=0.8, draft_share=0.0, drafted=drafted)
        twin.look([future], LATENCY, KV_TOKENS, horizon, fares)
        worth[drafted] = twin.values(limit_arrays([GUARDED, replace(GUARDED, speculative_tokens=4)]))[:, 0]
    assert worth[0][1] == worth[4][0] == worth[4][1]
    assert worth[0][0] != worth[4][0]
