"""The design of a calibration, run on an engine whose step latency is known."""

import numpy as np
import pytest

from batchpilot.engines import EngineConfig, SimulatedEngine
from batchpilot.engines.simulated.step_design import design_trials, measure_trials
from batchpilot.latency import SaturationParameters
from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.saturation_fit import fit

TRUTH = SaturationParameters(p_max=8.0, k_b=0.3, k_s=0.01, tau_0=6.0, tau_b=0.3, tau_c=0.004)
KV = 32768


def engine(requests, noise=0.02):
    return SimulatedEngine(EngineConfig(TRUTH, kv_capacity_tokens=KV, noise=noise), requests, record_steps=True)


@pytest.fixture(scope="module")
def trials():
    return design_trials(32, 512, kv_capacity_tokens=KV, max_model_len=2048)


@pytest.fixture(scope="module")
def steps(trials):
    return Observations.joined(run.steps for run in measure_trials(engine, trials, repeats=2))


def test_steps_of_the_design_tell_the_latency_model(steps):
    found = fit(steps, fixed={"tau_s": 0.0})
    assert not found.problems
    B, S, C = np.meshgrid([1, 4, 16, 32], [32, 128, 512], [0, 200, 2000])
    assert found.parameters.predict(B, S, C) == pytest.approx(TRUTH.predict(B, S, C), rel=0.05)


def test_the_design_holds_decode_prefill_and_mixed_steps(steps):
    B, S, C = steps.batch_size, steps.tokens, steps.context_tokens
    for kind in ((B == S) & (C > 0), C == 0, (S > B) & (C > 0)):
        assert np.mean(kind) > 0.02


def test_large_batches_decode_with_contexts_too(steps):
    B, S, C = steps.batch_size, steps.tokens, steps.context_tokens
    per_request = (C / B)[(B == S) & (B >= 12)]
    assert per_request.min() < 40
    assert per_request.max() > 80


def test_few_trials_are_of_one_request_and_prompts_of_a_trial_differ(trials):
    assert sum(trial.limits.batch_size == 1 for trial in trials) <= 0.1 * len(trials)
    spread = [trial.requests.prompt_tokens.max() / trial.requests.prompt_tokens.min() for trial in trials]
    assert np.median(spread) > 2


def test_no_trial_goes_beyond_its_ranges(trials):
    for trial in trials:
        requests, limits = trial.requests, trial.limits
        assert 1 <= limits.batch_size <= 32
        assert limits.batch_size <= limits.token_budget <= 512
        longest = int((requests.prompt_tokens + requests.output_tokens).max())
        assert longest <= 2048
        assert longest * limits.batch_size <= KV


@pytest.mark.parametrize(("kv", "batch"), [(600, 32), (64, 4), (2000, 64)])
def test_a_small_cache_gets_smaller_requests(kv, batch):
    for trial in design_trials(batch, 512, kv_capacity_tokens=kv):
        lengths = trial.requests.prompt_tokens + trial.requests.output_tokens
        assert int(lengths.max()) * trial.limits.batch_size <= kv


def test_every_trial_is_measured_in_every_round_in_another_order(trials):
    runs = list(measure_trials(engine, trials[:6], repeats=3, seed=1))
    rounds = [[run.trial for run in runs if run.repeat == repeat] for repeat in range(3)]
    assert [sorted(order) for order in rounds] == [list(range(6))] * 3
    assert len({tuple(order) for order in rounds}) > 1


def test_repeats_of_a_trial_run_the_same_steps(trials):
    first, second = sorted(measure_trials(engine, trials[:1], repeats=2), key=lambda run: run.repeat)
    assert np.array_equal(first.steps.tokens, second.steps.tokens)
    assert np.array_equal(first.steps.context_tokens, second.steps.context_tokens)


def test_equal_seeds_plan_equal_trials():
    one, same, other = (design_trials(8, 64, kv_capacity_tokens=4096, seed=seed) for seed in (3, 3, 4))
    assert [t.requests.prompt_tokens.tolist() for t in one] == [t.requests.prompt_tokens.tolist() for t in same]
    assert [t.requests.prompt_tokens.tolist() for t in one] != [t.requests.prompt_tokens.tolist() for t in other]


@pytest.mark.parametrize(
    ("batch", "step", "kv", "trials", "says"),
    [(0, 8, 512, 4, "largest_batch 0"), (16, 8, 512, 4, "largest_step 8"), (64, 512, 512, 4, "lower the largest")],
)
def test_impossible_designs_are_refused(batch, step, kv, trials, says):
    with pytest.raises(ValueError, match=says):
        design_trials(batch, step, kv_capacity_tokens=kv, trials=trials)


def test_no_rounds_are_refused(trials):
    with pytest.raises(ValueError, match="repeats is 0"):
        next(measure_trials(engine, trials, repeats=0))
