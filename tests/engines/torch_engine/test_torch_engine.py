"""The torch engine runs the scheduler's plans, survives running out of memory, and loses no block."""

import gc
import math
import time
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_workloads import (
    answered_prompts,
    assert_nothing_is_held,
    random_engine,
    random_limits,
    run_to_the_end,
    run_under_changing_limits,
    runner,
    steady_clock,
)

from batchpilot import Limits, RequestTable, SaturationParameters
from batchpilot.engines import EngineConfig, SimulatedEngine, run_engine
from batchpilot.engines.scheduler.state import CANCELLED, FAILED, LENGTH
from batchpilot.engines.torch import Sampling, Telemetry, TorchEngine, TorchEngineConfig
from batchpilot.engines.torch.telemetry import ProcessorSource, Reading


@contextmanager
def hooked(module, hook, **options):
    """Something is called before each forward pass of a module."""
    handle = module.register_forward_pre_hook(hook, **options)
    try:
        yield hook
    finally:
        handle.remove()


class OutOfMemoryAt:
    """Fails calls; in the second layer, the first has already written its keys and values."""

    def __init__(self, fails):
        self.calls = self.failed = 0
        self._fails = fails

    def __call__(self, module, args):
        self.calls += 1
        if self._fails(self.calls):
            self.failed += 1
            raise torch.OutOfMemoryError("injected")


def failing(fails):
    return hooked(runner().model.model.layers[1], OutOfMemoryAt(fails))


def test_running_out_of_memory_changes_no_token_and_leaks_nothing():
    ended = {LENGTH: 0, FAILED: 0}
    for seed in range(40):
        engine, expected, rng = random_engine(seed)
        with failing(lambda call, rng=rng: rng.random() < 0.25) as memory:
            _, failures = run_under_changing_limits(engine, rng)
        assert failures == memory.failed > 0
        assert_nothing_is_held(engine)
        for r, tokens in enumerate(expected):
            reason = engine.state.requests[r].reason
            ended[reason] += 1
            said = engine.generated(r)
            np.testing.assert_array_equal(said, tokens if reason == LENGTH else tokens[: len(said)])
    assert ended[LENGTH] > 100
    assert ended[FAILED] > 10


def test_a_request_that_never_fits_fails_and_the_others_go_on():
    requests = RequestTable.from_arrays(np.zeros(3), [5, 40, 6], 4)
    engine = TorchEngine(TorchEngineConfig(), requests, runner(), clock=steady_clock())

    def too_many(module, args, kwargs):
        if kwargs["input_ids"].shape[1] > 30:
            raise torch.OutOfMemoryError("injected")

    with hooked(runner().model, too_many, with_kwargs=True):
        result = run_engine(engine, Limits(4), window_ms=50.0)
    assert result.finish_reason == ["length", "failed", "length"]
    assert sum(window.failures for window in result.windows) == 4
    assert_nothing_is_held(engine)


def test_failed_steps_keep_no_tensor_alive():
    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    engine, _, _ = random_engine(3, mode="continuous")
    engine.set_limits(Limits(8))
    engine.run_until(engine.now_ms + 3.0)
    before = tensors()
    with failing(lambda call: True) as memory:
        engine.run_until(engine.now_ms + 3.0)
    assert memory.failed > 0
    assert tensors() == before


def test_another_error_is_not_taken_for_a_lack_of_memory():
    engine, _, _ = random_engine(0)
    engine.set_limits(Limits(8))

    def broken(module, args):
        raise RuntimeError("shapes do not agree")

    with hooked(runner().model, broken), pytest.raises(RuntimeError, match="shapes"):
        engine.run_until(math.inf)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 100_000), share=st.sampled_from([0.0, 0.0, 0.2]))
def test_every_block_has_one_owner_after_every_step(seed, share):
    engine, _, rng = random_engine(seed)
    with failing(lambda call: rng.random() < share):
        while not engine.finished:
            engine.set_limits(random_limits(rng))
            engine.run_until(engine.now_ms + 1.0)
            owned = engine.tables.owned()
            clock = engine.state.clock[0]
            assert len(set(owned.tolist())) == len(owned) == clock.total_blocks - clock.free_blocks
            assert engine.tables.free == clock.free_blocks
            np.testing.assert_array_equal(engine.tables.held, engine.state.requests.blocks)
    assert_nothing_is_held(engine)


@pytest.mark.parametrize("mode", ["continuous", "static"])
def test_the_simulator_with_the_measured_times_plans_the_very_same_steps(mode):
    rng = np.random.default_rng(5)
    requests = RequestTable.from_arrays(np.zeros(14), rng.integers(1, 60, 14), rng.integers(1, 16, 14), concurrency=9)
    constant = SaturationParameters(p_max=1e12, k_b=50.0, k_s=50.0, tau_0=1.0)
    limits = Limits(6, token_budget=32)
    config = TorchEngineConfig(estimate=constant, kv_capacity_tokens=140, mode=mode)
    real = TorchEngine(config, requests, runner(), record_steps=True)
    run_to_the_end(real, limits)
    steps = real.step_log()

    simulated = SimulatedEngine(
        EngineConfig(
            latency=constant,
            estimate=constant,
            kv_capacity_tokens=140,
            block_size=runner().cache.block_size,
            mode=mode,
            noise=1e-9,
        ),
        requests,
        record_steps=True,
    )
    simulated.state.noise[1 : len(steps) + 1] = steps[:, 4]
    run_to_the_end(simulated, limits)
    np.testing.assert_allclose(simulated.step_log(), steps, rtol=1e-6)
    np.testing.assert_array_equal(simulated.state.requests.generated, real.state.requests.generated)


def test_equal_seeds_give_equal_runs():
    runs = []
    for _ in range(2):
        engine, _, rng = random_engine(11, record_steps=True)
        run_under_changing_limits(engine, rng)
        runs.append((engine.step_log(), [engine.generated(r).tolist() for r in range(len(engine.requests))]))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


def test_the_clock_advances_by_step_time_and_skips_idle_time():
    requests = RequestTable.from_arrays([0.0, 60_000.0], [8, 8], 3)
    engine = TorchEngine(TorchEngineConfig(), requests, runner(), record_steps=True)
    started = time.perf_counter()
    run_to_the_end(engine, Limits(4))
    assert time.perf_counter() - started < 30.0
    steps = engine.step_log()
    assert len(steps) == 6
    assert steps[3, 0] == 60_000.0
    np.testing.assert_allclose(steps[1:3, 0], steps[0:2, 0] + steps[0:2, 4])


def test_a_drawn_token_does_not_depend_on_the_batch():
    answers = []
    for limits in (Limits(1), Limits(6, token_budget=9), Limits(3, token_budget=40)):
        requests = RequestTable.from_arrays(np.zeros(6), [3, 20, 7, 33, 12, 1], 12)
        config = TorchEngineConfig(kv_capacity_tokens=120, sampling=Sampling(temperature=1.0, top_p=0.9, seed=4))
        engine = TorchEngine(config, requests, runner(), clock=steady_clock())
        run_to_the_end(engine, limits)
        answers.append([engine.generated(r).tolist() for r in range(6)])
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("mode", ["continuous", "static"])
def test_a_request_ends_with_its_last_token(mode):
    prompt, expected = answered_prompts("tiny-llama")[0]
    eos = int(expected[4])
    requests = RequestTable.from_arrays([0.0], [len(prompt)], [len(expected)])
    config = TorchEngineConfig(mode=mode, sampling=Sampling(stop_token_ids=(eos,)))
    engine = TorchEngine(config, requests, runner(), prompts=[prompt], clock=steady_clock())
    run_to_the_end(engine, Limits(2))
    first = int(np.flatnonzero(expected == eos)[0])
    np.testing.assert_array_equal(engine.generated(0), expected[: first + 1])
    assert_nothing_is_held(engine)


def test_run_engine_drives_it_and_windows_measure_it():
    engine, _, _ = random_engine(21, mode="continuous")
    result = run_engine(engine, Limits(4, token_budget=32), window_ms=20.0)
    assert result.total_generated_tokens == engine.requests.output_tokens.sum()
    assert sum(window.generated_tokens for window in result.windows) == result.total_generated_tokens
    assert result.windows[0].memory_used_mb > runner().memory.fixed_mb


def test_the_step_log_grows_with_the_run(monkeypatch):
    monkeypatch.setattr("batchpilot.engines.torch.execution._FIRST_LOG", 3)
    requests = RequestTable.from_arrays([0.0], [1], [20])
    engine = TorchEngine(TorchEngineConfig(), requests, runner(), record_steps=True, clock=steady_clock())
    run_to_the_end(engine, Limits(1))
    np.testing.assert_allclose(engine.step_log(), [(k, 1, 1, k, 1.0) for k in range(20)])


def test_limits_come_first():
    engine, _, _ = random_engine(0)
    with pytest.raises(RuntimeError, match="set_limits"):
        engine.run_until(1.0)


class Device:
    """Says what it was told to say."""

    def __init__(self, *readings):
        self._readings = iter(readings)

    def read(self):
        return next(self._readings)


def test_windows_tell_what_the_device_says_and_otherwise_what_the_scheduler_reckons():
    said = [Reading(0.25, 900.0), Reading(0.75, 700.0), Reading(None, 500.0)]
    requests = RequestTable.from_arrays([0.0], [4], [40])
    engine = TorchEngine(
        TorchEngineConfig(), requests, runner(), clock=steady_clock(), telemetry=Telemetry(Device(*said), every=5)
    )
    engine.set_limits(Limits(1))
    windows = [engine.run_window(until)[0] for until in (9.5, 14.5, 18.5)]
    assert [w.utilisation for w in windows] == [0.5, 1.0, 1.0]
    assert [w.memory_used_mb for w in windows[:2]] == [800.0, 500.0]
    assert [w.memory_peak_mb for w in windows[:2]] == [900.0, 500.0]
    memory = runner().memory
    assert memory.fixed_mb < windows[2].memory_used_mb < memory.used_mb(40, 1)


def test_a_cancelled_request_leaves_the_others_answers_as_they_are():
    for seed in range(30):
        engine, expected, rng = random_engine(seed)
        for _ in range(4):
            engine.set_limits(random_limits(rng))
            engine.run_until(engine.now_ms + 5.0)
            engine.cancel(int(rng.integers(len(expected))))
            owned = engine.tables.owned()
            assert len(set(owned.tolist())) == len(owned) == engine.state.requests["blocks"].sum()
        run_under_changing_limits(engine, rng)
        assert_nothing_is_held(engine)
        for r, tokens in enumerate(expected):
            said = engine.generated(r)
            reason = engine.state.requests[r].reason
            assert reason in (LENGTH, CANCELLED)
            np.testing.assert_array_equal(said, tokens if reason == LENGTH else tokens[: len(said)])


def test_telemetry_reads_after_every_nth_step_and_tells_its_cost():
    telemetry = Telemetry(ProcessorSource(), every=3)
    engine, _, rng = random_engine(8, telemetry=telemetry, record_steps=True)
    run_under_changing_limits(engine, rng)
    assert [sample.step for sample in telemetry.samples] == list(range(3, len(engine.step_log()) + 1, 3))
    assert all(sample.reading.memory_used_mb > 10.0 for sample in telemetry.samples)
    assert 0.0 <= telemetry.samples[-1].reading.utilisation <= 1.0
    assert telemetry.cost_s > 0.0
