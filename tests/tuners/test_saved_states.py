"""A tuner saved and loaded at any moment goes on as the one that was not, whichever name `make_tuner` knows."""

import json
import math

import numpy as np
import pytest
from policy_samples import make_policy_bytes

from batchpilot.core import SLO, Limits, WindowMetrics
from batchpilot.tuners import TUNERS, make_tuner

WINDOWS, AFTERWARDS = 24, 8


def measured(limits, index, late=False):
    """A window of a loaded server, its numbers drawn from its index; a late one starts before the last."""
    draw = np.random.default_rng(index)
    batch = min(limits.batch_size, 12)
    return WindowMetrics(
        limits=limits,
        start_ms=1000.0 * index - (2500.0 if late else 0.0),
        duration_ms=1000.0,
        busy_ms=float(draw.uniform(700, 990)),
        steps=int(draw.integers(20, 50)),
        generated_tokens=int(draw.integers(300, 900)),
        prefill_tokens=int(draw.integers(0, 900)),
        arrivals=int(draw.integers(3, 30)),
        arrived_prompt_tokens=int(draw.integers(300, 3000)),
        completions=int(draw.integers(1, 20)),
        failures=int(draw.random() < 0.1),
        queue=int(draw.integers(0, 30)),
        running=batch,
        batch_size_mean=float(batch),
        oldest_wait_ms=float(draw.uniform(0, 3000)),
        utilisation=0.9,
        step_ms_mean=float(draw.uniform(15, 40)),
        ttft_ms_p50=float(draw.uniform(100, 900)),
        tpot_ms_p50=float(draw.uniform(15, 40)),
        ttft_target_ms=2000.0,
        tpot_target_ms=50.0,
        slo_attainment=float(draw.uniform(0.5, 1.0)),
        kv_capacity_tokens=50_000,
        kv_used_fraction=float(draw.uniform(0.1, 0.9)),
        memory_used_mb=10_000.0,
        memory_peak_mb=11_000.0,
        memory_total_mb=40_000.0,
        peak_tokens_per_s=1000.0,
    )


def plain(tuner):
    """A state as it comes back from a file, in which NaN equals NaN."""
    return json.loads(json.dumps(tuner.state_dict()), parse_constant=str)


@pytest.mark.parametrize("name", TUNERS)
def test_a_tuner_saved_and_loaded_at_any_moment_goes_on_equally(name, tmp_path):
    options = {}
    if name.startswith("optuna"):
        pytest.importorskip("optuna")
    if name == "optuna-cmaes":
        pytest.importorskip("cmaes")
    if name == "policy":
        (tmp_path / "policy.onnx").write_bytes(make_policy_bytes())
        options["path"] = tmp_path / "policy.onnx"

    def fresh():
        return make_tuner(name, base=Limits(256, 2048), slo=SLO(), seed=1, **options)

    for saved_after in range(0, WINDOWS, 3 if name.startswith(("optuna", "model")) else 1):
        original, moved = fresh(), fresh()
        for index in range(saved_after):
            original.tell(measured(original.ask(), index))
        moved.load_state_dict(json.loads(json.dumps(original.state_dict())))
        for index in range(saved_after, saved_after + AFTERWARDS):
            # The first window after the move lies before what the saved tuner had heard: its clock travels too.
            late = index == saved_after
            for tuner in (original, moved):
                tuner.tell(measured(tuner.ask(), index, late=late and saved_after > 2))
            assert moved.ask() == original.ask()
            assert plain(moved) == plain(original)
    assert math.isfinite(original.ask().batch_size)
