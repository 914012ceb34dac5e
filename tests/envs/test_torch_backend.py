"""The environment on a real model of two narrow layers: what is the same as in simulation, and what is measured."""

import itertools
import math
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from batchpilot import Limits, SaturationParameters
from batchpilot.configs import Scenario
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.engines.torch import ModelRunner
from batchpilot.envs import ENV_ID, BatchingEnv, make_backend
from batchpilot.envs.torch_backend import TorchBackend, grace_ms

torch.set_num_threads(1)

LENGTHS = {
    "kind": "lognormal",
    "prompt_tokens": {"median": 12, "sigma": 0.5, "max": 40},
    "output_tokens": {"median": 5, "sigma": 0.5, "max": 12},
}
LATENCY = SaturationParameters(p_max=30.0, k_b=10.0, k_s=1.0, tau_0=2.0, tau_b=0.05)


STEP_MS = 1000.0 / 256


def brief(name, load=0.8, **rest):
    phases = [{"duration_s": 1, "arrivals": {"kind": "poisson", "load": load}, "lengths": LENGTHS}]
    common = {"description": "A test.", "family": "stationary", "device": "A100-80GB", "model": "Llama-3-8B"}
    common |= {"decision_interval_ms": 250, "workload": {"phases": phases}}
    return Scenario.model_validate({"name": name} | common | rest)


def steady_clock():
    """A clock by which every step takes as long, to the last bit; it is read where a step begins and where it ends."""
    readings = itertools.count()
    return lambda: next(readings) * STEP_MS / 1000.0


@pytest.fixture(scope="module")
def runner():
    return ModelRunner("tiny-llama", kv_capacity_tokens=4096, step_tokens=256)


@pytest.fixture
def options(runner):
    return {"runner": runner, "latency": LATENCY, "clock": steady_clock()}


@pytest.fixture
def backend(options):
    return make_backend("torch", options)


def test_gymnasiums_checker_finds_nothing_to_warn_of_on_a_steady_clock(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(ENV_ID, scenario=brief("chat"), backend="torch", backend_options=options)
        check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.parametrize("track", ["batch", "limits", "guarded"])
def test_spaces_and_metrics_are_those_of_the_simulation(options, track):
    simulated = BatchingEnv(brief("chat"), track=track)
    real = BatchingEnv(brief("chat"), track=track, backend="torch", backend_options=options)
    assert real.observation_space == simulated.observation_space
    assert real.action_space == simulated.action_space
    told = [env.reset(seed=1)[1] for env in (simulated, real)]
    assert told[0].keys() == told[1].keys()
    assert told[0]["metrics"].keys() == told[1]["metrics"].keys()


def test_an_episode_on_the_devices_own_clock_stays_in_its_spaces_and_ends(runner):
    env = BatchingEnv(brief("chat", load=0.05), backend="torch", backend_options={"runner": runner})
    observation, info = env.reset(seed=3)
    ended, generated = False, 0
    while not ended:
        env.action_space.seed(generated)
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert observation in env.observation_space
        assert reward >= 0
        generated += info["metrics"]["generated_tokens"]
        ended = terminated or truncated
    assert generated > 0


def test_equal_seeds_give_equal_requests_and_other_seeds_others(backend):
    first, again, other = (backend.prepare(brief("chat"), seed).requests for seed in (1, 1, 2))
    assert np.array_equal(first.arrival_ms, again.arrival_ms)
    assert not np.array_equal(first.arrival_ms[:3], other.arrival_ms[:3])


def test_the_clock_moves_by_measured_step_time_and_over_idle_time(backend):
    run = backend.prepare(brief("chat", load=0.02), 0)
    engine = backend.start(run)
    engine.set_limits(Limits(8))
    engine.run_until(math.inf)
    window = engine.close_window()
    assert window.busy_ms == pytest.approx(STEP_MS * window.steps)
    assert engine.now_ms >= run.requests.arrival_ms[-1]
    assert engine.now_ms > 2 * window.busy_ms


def test_load_is_a_share_of_what_the_runner_can_serve(runner):
    slow = TorchBackend(runner, model_name="tiny", latency=LATENCY.scaled(4.0))
    fast = TorchBackend(runner, model_name="tiny", latency=LATENCY)
    many, few = (len(backend.prepare(brief("chat"), 0).requests) for backend in (fast, slow))
    assert many == pytest.approx(4 * few, rel=0.2)


def test_promises_are_the_same_multiples_of_an_unloaded_engines_latency(runner):
    slow, fast = (TorchBackend(runner, model_name="tiny", latency=LATENCY.scaled(factor)) for factor in (4.0, 1.0))
    loop = {"concurrency": 2, "requests": 9, "lengths": LENGTHS, "slo_mix": {"batch": 1.0}}
    scenario = brief("loop", workload={"closed_loop": loop})
    slos = [backend.prepare(scenario, 0).requests.slos[0] for backend in (slow, fast)]
    assert slos[0].ttft_ms == pytest.approx(4 * slos[1].ttft_ms)
    assert slos[0].tpot_ms == pytest.approx(4 * slos[1].tpot_ms)


def test_a_run_ends_when_no_promise_can_be_kept_any_more(backend):
    run = backend.prepare(brief("chat"), 0)
    slo, longest = run.requests.slos[0], run.requests.output_tokens.max()
    assert run.horizon_ms == 1000.0 + min(slo.ttft_ms + slo.tpot_ms * longest, 30_000.0)
    unpromised = {"interactive": {"ttft_ms": math.inf, "tpot_ms": math.inf}}
    assert grace_ms(backend.prepare(brief("free", slos=unpromised), 0).requests) == 30_000.0


def test_a_run_is_also_its_own_calibrated_simulation(backend):
    run = backend.prepare(brief("chat"), 0)
    assert run.engine.latency == run.engine.estimate == LATENCY
    assert run.engine.capacity_tokens == 4096
    assert (run.scenario.model, run.scenario.tensor_parallel) == ("llama (given)", 1)
    assert "float32" in run.latency_provenance


def test_out_of_memory_is_a_result_and_the_engine_goes_on(runner, options, monkeypatch):
    forward, steps = runner._forward, itertools.count()

    def failing(step, cache):
        if next(steps) in (2, 3):
            raise torch.OutOfMemoryError("injected")
        return forward(step, cache)

    monkeypatch.setattr(runner, "_forward", failing)
    env = BatchingEnv(brief("chat"), backend="torch", backend_options=options)
    env.reset(seed=0)
    _, _, _, _, info = env.step(env.action_space.sample())
    assert info["metrics"]["failures"] == 2
    assert info["metrics"]["generated_tokens"] > 0


def test_a_longer_request_than_the_model_takes_fails_and_the_others_finish(backend):
    scenario = brief("long", engine={"max_model_len": 24})
    run = backend.prepare(scenario, 0)
    result = run_engine(backend.start(run), Limits(16), window_ms=250.0, horizon_ms=run.horizon_ms)
    too_long = run.requests.prompt_tokens + run.requests.output_tokens > 24
    assert result.count("failed") == np.count_nonzero(too_long) > 0
    assert result.count("length") == np.count_nonzero(~too_long)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modle": "tiny-llama"}, "did you mean 'model'"),
        ({"model": "tiny-lama"}, "did you mean 'tiny-llama'"),
        ({"runner": object(), "dtype": "float32"}, "a runner is built already"),
        ({"model": "tiny-llama", "kv_capacity_tokens": 3}, "holds no block"),
    ],
)
def test_wrong_options_are_refused_with_a_reason(options, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=message):
        make_backend("torch", options)


def test_a_real_device_cannot_be_told_to_slow_down(scenarios, backend):
    with pytest.raises(ValueError, match=r"drift \(throttle, model_switch\)"):
        backend.prepare(scenarios["drifting"], 0)


def test_the_vector_form_is_simulated_only():
    with pytest.raises(ValueError, match="no vector form"):
        gym.make_vec(ENV_ID, num_envs=2, backend="torch", backend_options={"model": "tiny-llama"})
