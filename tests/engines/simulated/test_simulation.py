"""The public `simulate`: its clock, drift, failures, windows and errors."""

import copy
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

from batchpilot import SLO, Limits, RequestTable, SaturationParameters, Tuner, simulate
from batchpilot.configs.scenario import scenario
from batchpilot.engines import SimulatedEngine
from batchpilot.engines.scheduler.state import FINISH_REASONS
from batchpilot.envs.scenarios import prepare

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.01, tau_0=5.0, tau_b=0.02, tau_c=3e-4)


def steady(n=200, gap_ms=50.0, prompt=200, output=40):
    return RequestTable.from_arrays(np.arange(n) * gap_ms, prompt, output)


def test_a_lone_request_takes_the_time_the_formula_gives():
    table = RequestTable.from_arrays([100.0], [300], [3])
    result = simulate(table, LATENCY, Limits(8, token_budget=200), record_steps=True)
    steps = [(200, 0), (100, 200), (1, 300), (1, 301)]
    expected = [float(LATENCY.predict(1, tokens, context)) for tokens, context in steps]
    np.testing.assert_allclose(result.step_log[:, 4], expected)
    assert result.ttft_ms[0] == pytest.approx(sum(expected[:2]))
    assert result.e2e_ms[0] == pytest.approx(sum(expected))
    assert result.tpot_ms[0] == pytest.approx(sum(expected[2:]) / 2)


def test_drift_slows_the_steps_it_covers():
    drift = [(2000.0, LATENCY.scaled(3.0)), (4000.0, LATENCY)]
    result = simulate(steady(), LATENCY, Limits(64), drift=drift, record_steps=True)
    start, duration = result.step_log[:, 0], result.step_log[:, 4]
    truth = LATENCY.predict(*result.step_log[:, 1:4].T)
    slow = (start >= 2000.0) & (start < 4000.0)
    np.testing.assert_allclose(duration, np.where(slow, 3.0, 1.0) * truth)


def test_noise_is_multiplicative_and_seeded():
    runs = [simulate(steady(), LATENCY, Limits(64), noise=0.1, seed=seed, record_steps=True) for seed in (1, 1, 2)]
    logs = [run.step_log for run in runs]
    np.testing.assert_array_equal(logs[0], logs[1])
    ratio = np.log(logs[0][:, 4] / LATENCY.predict(*logs[0][:, 1:4].T))
    assert np.std(ratio) == pytest.approx(0.1, rel=0.2)
    assert abs(np.mean(ratio)) < 0.02
    assert not np.array_equal(logs[0][:, 4], logs[2][: len(logs[0]), 4])


def test_the_estimate_and_not_the_truth_sets_the_step_target():
    pessimist = LATENCY.scaled(2.0)
    table = RequestTable.from_arrays(np.zeros(4), 4000, 10)
    limits = Limits(4, step_target_ms=60.0)
    result = simulate(table, LATENCY, limits, estimate=pessimist, record_steps=True)
    believed = pessimist.predict(*result.step_log[:, 1:4].T)
    assert believed.max() <= 60.0
    assert believed.max() > 55.0


def test_the_guard_refuses_only_what_would_come_too_late():
    table = RequestTable.from_arrays(np.zeros(100), 1000, 5, slos=SLO(1000.0, 1000.0))
    result = simulate(table, LATENCY, Limits(4, token_budget=1000, ttft_guard=1.0), estimate=LATENCY)
    served = np.isfinite(result.ttft_ms)
    assert 0 < served.sum() < 100
    assert result.ttft_ms[served].max() <= 1000.0 * 1.05
    assert result.count("refused_by_guard") == 100 - served.sum()


def test_a_refusal_on_arrival_counts_the_tokens_already_waiting():
    table = RequestTable.from_arrays([0.0, 1.0, 1.0, 1.0], 100, 50)
    result = simulate(table, LATENCY, Limits(1, max_queued_tokens=200))
    assert result.finish_reason == ["length", "length", "length", "refused_on_arrival"]


def test_an_idle_engine_takes_a_prompt_beyond_max_queued_tokens():
    table = RequestTable.from_arrays([0.0, 1.0, 5000.0], [1000, 10, 10], 5)
    result = simulate(table, LATENCY, Limits(8, token_budget=200, max_queued_tokens=10))
    assert result.finish_reason == ["length", "refused_on_arrival", "length"]


def test_a_prompt_counts_against_max_queued_tokens_until_its_first_token():
    table = RequestTable.from_arrays([0.0, 100.0], [3000, 10], 5)
    limits = Limits(8, token_budget=200, max_queued_tokens=2999)
    assert simulate(table, LATENCY, limits).count("refused_on_arrival") == 1  # it runs, but has not spoken
    later = RequestTable.from_arrays([0.0, 5000.0], [3000, 10], 5)
    assert simulate(later, LATENCY, limits).count("length") == 2


def test_a_refused_client_hears_of_it_within_the_guard_whatever_is_served_first():
    """Shortest prompt first never gives a long prompt its turn under overload."""
    rng = np.random.default_rng(4)
    prompts = np.where(rng.random(400) < 0.2, 1500, 200)
    slo = SLO(1000.0, 1000.0)
    table = RequestTable.from_arrays(np.cumsum(rng.exponential(20.0, 400)), prompts, 20, slos=slo)
    limits = Limits(16, token_budget=512, ttft_guard=1.0, discipline="spf")
    result = simulate(table, LATENCY, limits, noise=0.3)
    assert result.count("refused_by_guard") > 50
    assert result.percentile_ms("e2e_ms", 0) > 0
    assert result.refusal_ms(100) <= 1000.0
    assert result.disciplines == ("spf",)


def test_percentiles_are_of_served_requests_and_refusals_have_their_own():
    table = RequestTable.from_arrays(np.zeros(100), 1000, 5, slos=SLO(1000.0, 1000.0))
    result = simulate(table, LATENCY, Limits(4, token_budget=1000, ttft_guard=1.0), estimate=LATENCY)
    served = result.finish_code == FINISH_REASONS.index("length")
    assert result.percentile_ms("e2e_ms", 0) == result.e2e_ms[served].min() > 0
    assert result.refusal_ms(0) == result.e2e_ms[~served].min()
    assert np.isnan(result.failure_ms(50))


@dataclass(frozen=True)
class Memory:
    total_mb: float = 1000.0
    fixed_mb: float = 500.0
    kv_mb_per_token: float = 0.01
    activation_mb_per_token: float = 0.5
    kv_capacity_tokens: int = 20_000


def test_a_step_too_large_for_memory_fails_and_the_engine_goes_on():
    # 500 + 200 MB leave room for the activations of 600 tokens.
    table = RequestTable.from_arrays([0.0, 5000.0], [900, 300], 10)
    result = simulate(table, LATENCY, Limits(4, token_budget=2048), memory=Memory())
    assert result.finish_reason == ["failed", "length"]
    assert sum(window.failures for window in result.windows) == 4
    assert simulate(table, LATENCY, Limits(4, token_budget=512), memory=Memory()).count("length") == 2


def test_memory_in_use_is_reported():
    window = simulate(steady(), LATENCY, Limits(64, token_budget=512), memory=Memory()).windows[3]
    assert 500.0 < window.memory_used_mb < window.memory_peak_mb < window.memory_total_mb == 1000.0
    assert 0.0 < window.kv_used_fraction < 1.0


class Recorder(Tuner):
    """Alternates two batch sizes and remembers what it was told."""

    name = "recorder"

    def __init__(self):
        self.told = []

    def ask(self):
        return Limits(4 + 4 * (len(self.told) % 2))

    def tell(self, metrics):
        self.told.append(metrics)

    def reset(self, seed=None):
        self.told = []

    def status(self):
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_a_tuner_is_asked_once_a_window_and_told_the_limits_it_asked_for():
    tuner = Recorder()
    result = simulate(steady(400), LATENCY, tuner, window_ms=500.0)
    assert [window.limits.batch_size for window in tuner.told[:4]] == [4, 8, 4, 8]
    assert len(tuner.told) == len(result.windows)
    for before, after in zip(tuner.told, tuner.told[1:], strict=False):
        assert after.start_ms == before.end_ms
        assert before.duration_ms >= 500.0


def test_anything_with_ask_and_tell_is_a_tuner():
    class Plain:
        def ask(self):
            return Limits(3)

        def tell(self, metrics):
            self.heard = metrics

    result = simulate(steady(50), LATENCY, Plain(), record_steps=True)
    assert result.step_log[:, 1].max() <= 3
    with pytest.raises(ValueError, match="limits_or_tuner is a int"):
        simulate(steady(5), LATENCY, 8)


def test_tenant_numbers_may_be_anything():
    table = RequestTable.from_arrays([0.0, 1.0, 2.0], 100, 5, user=[10**12, 7, 10**12])
    assert table.users == 2
    assert simulate(table, LATENCY, Limits(1, discipline="fair")).count("length") == 3


def test_window_percentiles_are_those_of_its_requests():
    result = simulate(steady(), LATENCY, Limits(64), window_ms=1e9)
    (window,) = result.windows
    assert window.ttft_ms_p50 == pytest.approx(np.median(result.ttft_ms))
    assert window.ttft_ms_p99 == pytest.approx(np.percentile(result.ttft_ms, 99))
    assert window.tpot_ms_p95 == pytest.approx(np.percentile(result.tpot_ms, 95))
    assert window.slo_attainment == pytest.approx(result.slo_attainment)
    assert window.generated_tokens == 200 * 40


def test_the_horizon_leaves_the_rest_unfinished():
    result = simulate(steady(400), LATENCY, Limits(1), horizon_ms=5000.0)
    assert result.count("unfinished") > 100
    assert result.elapsed_ms == pytest.approx(5000.0, abs=50.0)


def test_a_closed_loop_keeps_its_concurrency():
    table = RequestTable.from_arrays(np.zeros(72), 100, 50, concurrency=8)
    result = simulate(table, LATENCY, Limits(64), record_steps=True)
    assert result.step_log[:, 1].max() == 8
    assert result.count("length") == 72
    assert np.all(result.ttft_ms > 0)


def test_no_requests_is_an_empty_result():
    result = simulate(RequestTable.from_arrays([], [], []), LATENCY, Limits(4))
    assert result.elapsed_ms == 0.0
    assert np.isnan(result.goodput_fraction)
    assert np.all(np.isnan(result.refused_by_prompt_quartile()))


def test_refusals_are_counted_by_prompt_length():
    prompts = np.tile([50, 100, 400, 1600], 50)
    table = RequestTable.from_arrays(np.arange(200) * 20.0, prompts, 20)
    result = simulate(table, LATENCY, Limits(8, discipline="spf", ttft_guard=1.0), slo=SLO(800.0, 100.0))
    shares = result.refused_by_prompt_quartile()
    assert shares[3] > shares[0]


def test_parameters_may_come_from_a_file(tmp_path):
    path = LATENCY.to_yaml(tmp_path / "a100.yaml")
    direct = simulate(steady(), LATENCY, Limits(8))
    read = simulate(steady(), path, Limits(8), estimate=str(path))
    np.testing.assert_array_equal(direct.e2e_ms, read.e2e_ms)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window_ms": 0.0}, "window_ms is 0.0; it must be above 0"),
        ({"discipline": "fcsf"}, "did you mean 'fcfs'"),
        ({"mode": "padded"}, "unknown batching mode 'padded'"),
        ({"prefill": "chunk"}, "did you mean 'chunked'"),
        ({"kv_capacity_tokens": 8}, "holds no block of 16"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"drift": [(5.0, LATENCY), (1.0, LATENCY)]}, "must ascend"),
        ({"horizon_ms": -1.0}, "horizon_ms is -1.0"),
    ],
)
def test_a_bad_argument_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        simulate(steady(5), LATENCY, Limits(4), **change)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda engine: pickle.loads(pickle.dumps(engine))])
def test_a_copied_engine_goes_on_exactly_as_the_original(copied):
    run = prepare(scenario("quick-chat"), 0)
    original = SimulatedEngine(run.engine, run.requests, record_steps=True)
    original.set_limits(Limits(16))
    original.run_until(5000.0)
    other = copied(original)
    for until_ms in (8000.0, 12_000.0):
        assert original.run_until(until_ms) == other.run_until(until_ms)
        assert original.now_ms == other.now_ms
        np.testing.assert_equal(other.close_window().to_dict(), original.close_window().to_dict())
        original.set_limits(Limits(8))
        other.set_limits(Limits(8))
    np.testing.assert_array_equal(other.step_log(), original.step_log())
