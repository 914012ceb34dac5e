"""The probe tuner obeys: sizes set by hand, configurations changed, strategies off, resets, what it tells."""

import pytest
from probe_curves import CURVE, PROBE, stable_drive

from batchpilot.configs import ConfigError
from batchpilot.core import Limits
from batchpilot.tuners import NotObeyedError, Phase, ProbeTuner
from batchpilot.tuners.probe.phases import TRANSITIONS


def test_a_tuner_keeps_the_other_limits_of_its_base():
    tuner = ProbeTuner(base=Limits(256, token_budget=2048, max_queued_tokens=9))
    assert tuner.ask() == Limits(8, token_budget=2048, max_queued_tokens=9)


def test_a_size_set_by_hand_is_where_dynamic_goes_on(drive):
    driven = stable_drive(drive)
    driven.tuner.set_batch_size(20)
    assert driven.size == 20
    assert driven.phase == Phase.DYNAMIC_ADJUSTMENT
    assert driven(2)[0] == 20


def test_a_size_set_by_hand_is_locked_by_hybrid(drive):
    driven = drive(CURVE.__getitem__, strategy="hybrid")
    driven.tuner.set_batch_size(32)
    assert driven(50) == [32] * 50


@pytest.mark.parametrize("size", [0, -1, 257, 2.5, True, "8", None])
def test_a_size_out_of_bounds_is_refused_by_name(drive, size):
    driven = drive(CURVE.__getitem__)
    with pytest.raises(ValueError, match="batch_size"):
        driven.tuner.set_batch_size(size)
    assert driven.size == 8


@pytest.mark.filterwarnings("ignore::batchpilot.configs.ConfigWarning")
def test_a_configuration_change_moves_the_size_into_its_bounds(drive):
    driven = stable_drive(drive)
    config = driven.tuner.update_config({"max_batch_size": 20})
    assert config.max_batch_size == driven.tuner.config.max_batch_size == 20
    assert driven.size == 20
    assert max(driven(50)) <= 20


def test_a_configuration_change_is_refused_as_a_whole(drive):
    driven = stable_drive(drive)
    before = driven.tuner.config
    with pytest.raises(ConfigError, match="min_batch_size"):
        driven.tuner.update_config({"growth_coefficient": 0.5, "min_batch_size": 300})
    assert driven.tuner.config == before


@pytest.mark.filterwarnings("ignore::batchpilot.configs.ConfigWarning")
def test_changed_bounds_restart_a_probe_under_way(drive):
    driven = drive(lambda size: size / 300)
    driven(3)
    driven.tuner.update_config({"min_batch_size": 3, "initial_batch_size": 4, "max_batch_size": 10})
    assert driven(4) == [4, 8, 10, 10]


def test_changed_weights_forget_the_scores(drive):
    driven = stable_drive(drive)
    weights = {"throughput_weight": 0.4, "gpu_utilization_weight": 0.4, "memory_efficiency_weight": 0.2}
    driven.tuner.update_config(weights)
    assert driven.tuner.status()["best_batch_size"] is None
    driven(1)
    assert driven.tuner.status()["best_score"] == pytest.approx(0.4 * 0.8 + 0.4 + 0.2)


def test_strategy_static_holds_the_fixed_size(drive):
    driven = stable_drive(drive)
    driven.tuner.update_config({"strategy": "static", "fixed_batch_size": 12})
    assert driven.tuner.name == "static"
    assert driven(30) == [12] * 30


def test_a_disabled_tuner_holds(drive):
    assert drive(CURVE.__getitem__, enabled=False)(30) == [8] * 30


@pytest.mark.parametrize(
    "keys", [{"enabled": False}, {"strategy": "static"}, {"strategy": "static", "fixed_batch_size": 16}]
)
def test_nothing_moves_the_size_of_a_tuner_that_is_disabled_or_static(drive, keys):
    driven = drive(CURVE.__getitem__, **keys)
    size = driven.size
    orders = [
        driven.tuner.trigger_probe,
        driven.tuner.reset_to_safe_state,
        lambda: driven.tuner.set_batch_size(32),
    ]
    for order in orders:
        with pytest.raises(NotObeyedError, match=r"disabled|static"):
            order()
        assert driven(4, failures=1) + driven(4) == [size] * 8
    driven(5, failures=1)
    assert "stays" in driven.tuner.status()["reason"]


def test_a_tuner_that_is_disabled_holds_where_it_is_whatever_comes(drive):
    driven = stable_drive(drive)
    driven.tuner.update_config({"enabled": False})
    driven.tuner.reset()
    assert driven(10, failures=1) + driven(10) == [32] * 20
    driven.tuner.update_config({"enabled": True})
    driven(1, failures=1)
    assert driven.size == 16


def test_a_reset_to_the_safe_state_waits_at_the_minimum_for_a_healthy_window(drive):
    driven = stable_drive(drive)
    driven.tuner.reset_to_safe_state()
    status = driven.tuner.status()
    assert (driven.size, status["phase"], status["best_batch_size"]) == (1, "SAFE_FALLBACK", None)
    assert driven(3) == [1, 1, 2]


def test_dynamic_can_be_made_hybrid_while_running(drive):
    driven = stable_drive(drive)
    driven.tuner.update_config({"strategy": "hybrid"})
    driven.score_of = lambda size: 0.1
    assert len(set(driven(50))) == 1


def test_reset_starts_over(drive):
    driven = stable_drive(drive)
    driven.tuner.reset(seed=3)
    driven.score_of, driven.index = CURVE.__getitem__, 0
    assert driven(9) == PROBE
    assert driven.tuner.status()["windows_heard"] == 9


def test_status_holds_every_key_of_the_api(drive):
    driven = stable_drive(drive)
    status = driven.tuner.status()
    assert status["enabled"] is True
    assert status["phase"] == "STABLE_RUNNING"
    assert status["current_batch_size"] == 32
    assert status["best_batch_size"] == 32
    assert status["best_score"] == pytest.approx(0.8)
    assert status["is_stabilized"] is True
    assert status["consecutive_failures"] == 0
    assert status["throughput"] == pytest.approx(800, abs=40)
    assert status["gpu_utilization"] == 1.0
    assert status["memory_utilization"] == pytest.approx(0.8)
    assert status["processing_time_ms"] == pytest.approx(20.0)
    assert "stable at 32" in status["reason"]


def test_every_transition_taken_is_in_the_table(drive):
    driven = stable_drive(drive, fallback_level="safe")
    taken = set()
    events = [{}] * 10 + [{"failures": 1}] * 3 + [{}] * 60 + [{"arrivals": 90}] * 12 + [{"generated_tokens": 20}] * 3
    for changes in (events + [{}] * 60) * 3:
        before = Phase(driven.phase)
        driven(1, **changes)
        taken.add((before, Phase(driven.phase)))
    assert all(after is before or after in TRANSITIONS[before] for before, after in taken)
    assert len({after for _, after in taken}) == len(Phase)


@pytest.mark.parametrize("options", [{"windows_per_decision": 0}, {"settle_ms": -1.0}, {"settle_ms": float("nan")}])
def test_options_out_of_bounds_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ProbeTuner(**options)
