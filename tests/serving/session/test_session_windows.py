"""The windows and details of a session are those that a simulated engine measures itself."""

import math

import numpy as np
import pytest
from session_scripts import Clock, Scripted

from batchpilot.core import Limits
from batchpilot.core.metrics import METRIC_NAMES
from batchpilot.engines import EngineConfig, MemoryModel, SimulatedEngine
from batchpilot.engines.scheduler.admission import admit_arrivals, next_arrival_ms
from batchpilot.engines.scheduler.commit import commit, commit_failure
from batchpilot.engines.scheduler.details import DetailsReader
from batchpilot.engines.scheduler.plan import plan
from batchpilot.engines.scheduler.state import FINISH_REASONS
from batchpilot.latency import SaturationParameters
from batchpilot.serving import EngineFacts, TunerSession
from batchpilot.serving.session.engine import step_ms
from batchpilot.workloads.table import RequestTable

LATENCY = SaturationParameters(p_max=20.0, k_b=0.12, k_s=0.005, tau_0=5.0, tau_b=0.1, tau_c=1e-4)
GUARDED = Limits(16, token_budget=256, max_queued_tokens=4000, step_target_ms=60.0, ttft_guard=1.0, discipline="spf")


class Mirror:
    """Runs a simulated engine's scheduler step by step and tells a session what a server would see."""

    def __init__(self, engine, session, clock):
        self.engine, self.session, self.clock = engine, session, clock
        self.s, self.c = engine.state, engine.state.clock[0]
        self.arrived = self.ended = 0

    def tell_arrivals(self):
        for r in range(self.arrived, int(self.c.next_arrival)):
            request = self.s.requests[r]
            self.session.on_arrival(
                r,
                int(request["prompt"]),
                ttft_target_ms=float(request["ttft_target_ms"]),
                tpot_target_ms=float(request["tpot_target_ms"]),
                waited_ms=float(self.c.now_ms - request["arrival_ms"]),
            )
        self.arrived = int(self.c.next_arrival)

    def tell_ends(self):
        for r in self.s.slots["ended"][self.ended : int(self.c.n_ended)].tolist():
            reason = FINISH_REASONS[self.s.requests[r]["reason"]]
            if reason == "length":
                self.session.on_finish(r)
            elif reason == "failed":
                self.session.on_failure(r)
            else:
                self.session.on_reject(r, reason)
        self.ended = int(self.c.n_ended)

    def step(self, fails=False):
        """One turn of the loop of an executor; False when there is nothing left to do."""
        s, c = self.s, self.c
        admit_arrivals(s)
        self.tell_arrivals()
        before = set(s.slots["running"][: c.n_running].tolist())
        planned = plan(s)
        for r in before & set(s.lines["waiting"][: c.n_queue].tolist()):
            self.session.on_preempt(r)
        self.tell_ends()
        if planned == 0:
            following = next_arrival_ms(s)
            if following == math.inf:
                return False
            c.now_ms = following
            self.clock.ms = float(c.now_ms)
            self.session.tick()
            return True
        rows, tokens = s.slots["planned"][:planned].tolist(), s.slots["tokens"][:planned].tolist()
        generated = s.requests["generated"].copy()
        used = float((c.total_blocks - c.free_blocks) / c.total_blocks)
        shape = int(c.n_plan), int(c.plan_total_tokens), int(c.plan_context)
        duration = float(step_ms(LATENCY.as_array().tolist(), *shape))
        (commit_failure if fails else commit)(s, duration)
        self.clock.ms = float(c.now_ms)
        for r, count in zip(rows, tokens, strict=True):
            self.session.on_start(r)
            if not fails and (count > 1 or generated[r] == 0):
                self.session.on_prefill(r, count)
            if s.requests["generated"][r] > generated[r]:
                self.session.on_tokens(r)
        for r in set(rows) & set(s.lines["waiting"][: c.n_queue].tolist()):
            self.session.on_preempt(r)
        self.tell_ends()
        self.session.on_step(*shape, duration, kv_used_fraction=used, failed=fails)
        return True


def crowd(seed, n=120):
    rng = np.random.default_rng(seed)
    return RequestTable.from_arrays(
        np.cumsum(rng.exponential(60.0, n)), rng.integers(20, 700, n), rng.integers(1, 60, n), priority=1
    )


@pytest.mark.parametrize("limits", [Limits(8), Limits(32, token_budget=128), GUARDED])
@pytest.mark.parametrize("fails_every", [0, 17])
def test_events_give_the_windows_that_the_engine_itself_measures(limits, fails_every):
    memory = MemoryModel(4000.0, 1000.0, 0.5, 0.25, 3200)
    engine = SimulatedEngine(EngineConfig(LATENCY, estimate=LATENCY, memory=memory), crowd(1))
    engine.set_limits(limits)
    clock, tuner, own = Clock(), Scripted(limits), []
    facts = EngineFacts(3200, 1000.0, 0.5, 0.25, 4000.0, tuple(LATENCY.as_array().tolist()))
    session = TunerSession(
        tuner, window_ms=500.0, clock=clock, facts=facts, on_window=lambda _: own.append(engine.close_window())
    )
    mirror, turns = Mirror(engine, session, clock), 0
    while mirror.step(fails=fails_every > 0 and turns % fails_every == 3):
        turns += 1
    assert len(own) > 10
    assert session.status()["odd_events"] == 0
    assert sum(window.completions for window in own) > 20
    for heard, measured in zip(tuner.heard, own, strict=True):
        for name in METRIC_NAMES:
            assert getattr(heard, name) == pytest.approx(getattr(measured, name), rel=1e-6, abs=1e-6, nan_ok=True), name


def test_the_run_compared_with_the_engine_sees_preemptions_refusals_and_failures():
    memory = MemoryModel(4000.0, 1000.0, 0.5, 0.25, 3200)
    seen = {"preemptions": 0, "refused_by_guard": 0, "refused_on_arrival": 0, "failures": 0}
    for limits in (Limits(32, token_budget=128), GUARDED):
        engine = SimulatedEngine(EngineConfig(LATENCY, estimate=LATENCY, memory=memory), crowd(1))
        engine.set_limits(limits)
        clock, tuner = Clock(), Scripted(limits)
        mirror, turns = Mirror(engine, TunerSession(tuner, window_ms=500.0, clock=clock), clock), 0
        while mirror.step(fails=turns % 17 == 3):
            turns += 1
        for name in seen:
            seen[name] += sum(getattr(window, name) for window in tuner.heard)
    assert all(seen.values()), seen


def test_details_are_those_that_the_engine_would_tell():
    limits = Limits(8, token_budget=128)
    engine = SimulatedEngine(EngineConfig(LATENCY, estimate=LATENCY), crowd(2, n=40), record_steps=True)
    engine.set_limits(limits)
    clock, tuner, own, reader = Clock(), Scripted(limits), [], DetailsReader(engine)
    session = TunerSession(tuner, window_ms=400.0, clock=clock, on_window=lambda _: own.append(reader.read()))
    mirror = Mirror(engine, session, clock)
    while mirror.step():
        pass
    assert len(own) > 3
    for heard, told in zip(tuner.studied, own, strict=True):
        assert heard.now_ms == pytest.approx(told.now_ms)
        assert np.allclose(heard.steps, told.steps)
        assert sorted(heard.output_tokens) == sorted(told.output_tokens)
        for part in ("arrivals", "running", "waiting"):
            ours, theirs = (np.sort(getattr(details, part), order="arrival_ms") for details in (heard, told))
            assert len(ours) == len(theirs)
            for name in ours.dtype.names:
                assert np.allclose(ours[name], theirs[name], equal_nan=True), (part, name)
