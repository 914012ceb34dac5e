"""Limits that never move."""

import pytest

from batchpilot.baselines import SERVER_DEFAULT, StaticTuner
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import Limits, WindowMetrics
from batchpilot.tuners import make_tuner

BASE = Limits(batch_size=256, token_budget=4096, max_queued_tokens=9000)


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_fixed_sizes_keep_the_base(size):
    assert make_tuner(f"static-{size}", base=BASE).ask() == BASE.replace(batch_size=size)
    assert make_tuner(f"static-{size}").ask() == Limits(size)


def test_static_default_is_what_servers_ship():
    assert make_tuner("static-default", base=BASE).ask() == Limits(256, token_budget=2048) == SERVER_DEFAULT


def test_static_takes_the_configured_size_or_leaves_it_to_the_server():
    assert make_tuner("static", TunerConfig(fixed_batch_size=12), base=BASE).ask() == BASE.replace(batch_size=12)
    assert make_tuner("static", base=BASE).ask() == BASE
    assert make_tuner("static").ask() == SERVER_DEFAULT


def test_static_accumulate_is_the_documents_constant():
    limits = make_tuner("static-accumulate", base=BASE).ask()
    assert (limits.batch_size, limits.max_wait_ms, limits.token_budget) == (8, 50.0, 4096)


def test_nothing_moves_a_static_tuner():
    tuner = StaticTuner(BASE)
    for index in range(20):
        tuner.tell(WindowMetrics(limits=Limits(1), start_ms=-index, failures=9, generated_tokens=-1))
    assert tuner.ask() is BASE
    assert tuner.status()["windows_heard"] == 20


def test_a_guarded_default_aims_below_the_slo_by_what_an_estimate_is_usually_off():
    from batchpilot.core import SLO

    limits = make_tuner("guarded-default", slo=SLO(2000.0, 80.0), base=BASE).ask()
    assert limits == Limits(256, 2048, step_target_ms=76.0, ttft_guard=1.0, discipline="spf")


def test_a_guarded_default_without_an_slo_aims_by_what_windows_usually_tell():
    tuner = make_tuner("guarded-default")
    assert tuner.ask().step_target_ms is None
    for target in (float("nan"), float("inf"), 60.0, 60.0, 60.0, 1e9, 1e300, 5e-324):
        tuner.tell(WindowMetrics(limits=tuner.ask(), tpot_target_ms=target))
    assert tuner.ask().step_target_ms == pytest.approx(0.95 * 60.0)
    tuner.reset()
    assert tuner.ask().step_target_ms is None
