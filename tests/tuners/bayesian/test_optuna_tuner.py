"""The Optuna tuner on servers whose answer to each setting is known."""

import json
import math

import pytest

pytest.importorskip("optuna")

from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import SLO, Limits, WindowMetrics
from batchpilot.tuners import make_tuner
from batchpilot.tuners.bayesian.studies import open_storage

BASE = Limits(256, token_budget=2048)
BEST_SIZE = 64


class Server:
    """Serves 1000 tokens/s at the best batch size, less by the factor that a size is away from it."""

    def __init__(self, tuner, arrivals=20):
        self.tuner, self.arrivals, self.now_ms, self.asked = tuner, arrivals, 0.0, []

    def window(self, **changes):
        limits = self.tuner.ask()
        self.asked.append(limits)
        tokens = round(1000 * math.exp(-abs(math.log2(limits.batch_size / BEST_SIZE))))
        values = {
            "start_ms": self.now_ms,
            "duration_ms": 1000.0,
            "busy_ms": 900.0,
            "steps": 30,
            "generated_tokens": tokens,
            "arrivals": self.arrivals,
            "completions": 10,
            "slo_attainment": 1.0,
            "goodput_tokens_per_s": float(tokens),
            "running": limits.batch_size,
            "utilisation": 0.9,
            "tpot_target_ms": 100.0,
        }
        self.now_ms += 1000.0
        return WindowMetrics(limits=limits, **(values | changes))

    def run(self, windows, **changes):
        for _ in range(windows):
            self.tuner.tell(self.window(**changes))
        return self.tuner.status()


def tuner_of(sampler="tpe", strategy="hybrid", **options):
    if sampler == "gp":
        pytest.importorskip("torch")
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    options = {"windows_per_trial": 3, "track": "batch", "trials": 12} | options
    return make_tuner(f"optuna-{sampler}", TunerConfig(strategy=strategy), base=BASE, slo=SLO(), **options)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_locks_a_size_near_the_best_after_its_budget(sampler):
    server = Server(tuner_of(sampler, trials=20 if sampler != "gp" else 12))
    status = server.run(60)
    assert status["is_stabilized"]
    assert BEST_SIZE / 2 <= server.tuner.ask().batch_size <= BEST_SIZE * 2
    assert len(set(server.asked)) > 5
    held = server.tuner.ask()
    server.run(40, arrivals=200)
    assert server.tuner.ask() == held


def test_starts_at_the_base_limits_and_keeps_fields_outside_its_track():
    server = Server(tuner_of())
    assert server.tuner.ask().batch_size == BASE.batch_size
    server.run(30)
    assert {limits.token_budget for limits in server.asked} == {BASE.token_budget}


def test_sizes_stay_within_the_configured_bounds():
    config = TunerConfig.from_dict({"min_batch_size": 4, "max_batch_size": 20}, warn=False)
    server = Server(make_tuner("optuna-tpe", config, base=BASE, track="batch", windows_per_trial=2))
    server.run(40)
    assert {4 <= limits.batch_size <= 20 for limits in server.asked} == {True}


def test_dynamic_explores_again_when_the_load_changes_and_begins_with_the_best():
    server = Server(tuner_of(strategy="dynamic"))
    server.run(60)
    best = server.tuner.ask()
    for _ in range(30):
        if server.run(1, arrivals=200)["phase"] == "RE_EVALUATION":
            break
    status = server.tuner.status()
    assert status["phase"] == "RE_EVALUATION"
    assert status["trials_told"] == 0
    assert server.tuner.ask() == best
    assert server.run(60, arrivals=200)["is_stabilized"]


def test_the_first_window_and_those_with_a_queue_from_before_do_not_count():
    server = Server(tuner_of(objective="goodput", trials=1, windows_per_trial=3))
    server.run(1, goodput_tokens_per_s=1e6)
    server.run(1, goodput_tokens_per_s=1e6, oldest_wait_ms=5000.0)
    assert not server.run(1, goodput_tokens_per_s=10.0)["is_stabilized"]
    status = server.run(1, goodput_tokens_per_s=30.0)
    assert status["is_stabilized"]
    assert status["best_score"] == 20.0


def test_a_window_of_another_setting_is_never_credited():
    tuner = tuner_of(objective="goodput", trials=1)
    server = Server(tuner)
    for _ in range(10):
        foreign = server.window(goodput_tokens_per_s=1e6)
        tuner.tell(WindowMetrics(**(foreign.to_dict() | {"limits": Limits(256, token_budget=2047)})))
    status = tuner.status()
    assert (status["windows_ignored"], status["windows_of_trial"]) == (10, 0)
    assert server.run(3, goodput_tokens_per_s=5.0)["best_score"] == 5.0


def test_a_failed_step_ends_the_trial_and_its_setting_is_not_locked():
    server = Server(tuner_of(trials=6))
    for _ in range(40):
        limits = server.tuner.ask()
        server.run(1, failures=int(limits.batch_size > 20), generated_tokens=limits.batch_size)
    assert server.tuner.status()["is_stabilized"]
    assert server.tuner.ask().batch_size <= 20
    assert server.tuner.status()["windows_failed"] > 0


def test_memory_above_the_limit_is_not_feasible():
    server = Server(tuner_of(trials=6))
    for _ in range(30):
        used = 95_000.0 if server.tuner.ask().batch_size > 20 else 50_000.0
        server.run(1, memory_used_mb=used, memory_peak_mb=used, memory_total_mb=100_000.0)
    assert server.tuner.ask().batch_size <= 20


def test_score_wants_the_promises_kept_besides():
    server = Server(tuner_of(trials=6, objective="score"))
    for _ in range(30):
        server.run(1, slo_attainment=0.5 if server.tuner.ask().batch_size > 20 else 0.95)
    assert server.tuner.ask().batch_size <= 20


def test_hopeless_trials_end_early_except_with_samplers_that_learn_from_whole_trials_only():
    windows = {}
    for sampler in ("tpe", "cmaes"):
        server = Server(tuner_of(sampler, trials=20, windows_per_trial=6))
        while not server.tuner.status()["is_stabilized"]:
            server.run(1)
        windows[sampler] = len(server.asked)
    assert windows["tpe"] < windows["cmaes"] == 20 * 6


@pytest.mark.parametrize(
    "odd",
    [
        {"goodput_tokens_per_s": math.nan},
        {"goodput_tokens_per_s": None},
        {"failures": math.nan},
        {"slo_attainment": 7.0},
        {"duration_ms": -5.0},
        {"arrivals": -1},
        {"memory_used_mb": math.inf},
        {"completions": "many"},
        {"oldest_wait_ms": None},
        {"start_ms": math.nan},
    ],
)
@pytest.mark.parametrize("objective", ["attained", "goodput", "score"])
def test_odd_metrics_are_counted_and_limits_hold(odd, objective):
    server = Server(tuner_of(objective=objective))
    server.run(1)
    before = server.tuner.ask()
    status = server.run(20, **odd)
    assert status["windows_odd"] == 20
    assert server.tuner.ask() == before


def test_time_that_goes_backwards_is_odd_once_and_goes_on_from_there():
    server = Server(tuner_of())
    server.run(2)
    server.now_ms = 0.0
    assert server.run(2)["windows_odd"] == 1


def test_idle_windows_are_held_but_refusing_everything_is_a_result():
    nothing = {"steps": 0, "generated_tokens": 0, "running": 0, "completions": 0, "busy_ms": 0.0, "arrivals": 0}
    server = Server(tuner_of(trials=1))
    assert server.run(5, **nothing)["windows_held"] == 5
    refusing = nothing | {"arrivals": 20, "refused_on_arrival": 20, "slo_attainment": 0.0}
    assert server.run(3, **refusing)["best_score"] == 0.0


@pytest.mark.parametrize("moved_after", [1, 7, 20, 50])
def test_a_moved_tuner_asks_for_what_it_would_have_asked(moved_after):
    stayed = Server(tuner_of(trials=12, track="guarded"))
    stayed.run(moved_after)
    moved = Server(tuner_of())
    moved.tuner.load_state_dict(json.loads(json.dumps(stayed.tuner.state_dict(), allow_nan=False)))
    moved.now_ms = stayed.now_ms
    assert moved.tuner.ask() == stayed.tuner.ask()
    stayed.run(15)
    moved.run(15)
    assert moved.asked == stayed.asked[moved_after:]


def test_equal_seeds_ask_for_the_same_and_others_do_not():
    asked = []
    for seed in (1, 1, 2):
        server = Server(make_tuner("optuna-tpe", base=BASE, seed=seed, windows_per_trial=2))
        server.run(20)
        asked.append(server.asked)
    assert asked[0] == asked[1] != asked[2]


def test_an_exploration_in_a_file_goes_on_after_the_tuner_is_gone(tmp_path):
    storage = tmp_path / "study.journal"
    first = Server(tuner_of(storage=storage))
    first.run(7)
    told = first.tuner.status()["trials_told"]
    assert told >= 2
    second = Server(tuner_of(storage=storage))
    assert second.tuner.status()["trials_told"] == told
    assert second.run(40)["is_stabilized"]
    third = tuner_of(storage=storage)
    assert third.status()["is_stabilized"]
    assert third.ask() == second.tuner.ask()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"windows_per_trial": 1}, "windows_per_trial is 1"),
        ({"objective": "speed"}, "unknown objective"),
        ({"track": "batches"}, "did you mean 'batch'"),
        ({"min_slo_attainment": 1.5}, "min_slo_attainment is 1.5"),
    ],
)
def test_options_out_of_bounds_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        tuner_of(**options)


def test_a_storage_that_cannot_be_opened_is_told_without_its_password():
    with pytest.raises(ValueError, match=r"cannot be opened|driver") as error:
        open_storage("postgresql://me:secret@127.0.0.1:1/none")
    assert "secret" not in str(error.value)
