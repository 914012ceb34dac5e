"""No tuner that a name makes ever raises, hangs or learns what is no number, whatever it is told.

Each hears 2,000 windows here; `BATCHPILOT_HOSTILE_WINDOWS=100000 pytest tests/tuners/test_hostile_windows.py` is long.
"""

from __future__ import annotations

import json
import os
from functools import partial

import numpy as np
import pytest
from hostile_windows import details, hostile_window, sane_window

from batchpilot.core import SLO, Limits
from batchpilot.tuners import TUNERS, make_tuner
from batchpilot.tuners.planning import SHIPPED_POLICIES

WINDOWS = int(os.environ.get("BATCHPILOT_HOSTILE_WINDOWS", "2000"))

OPTIONS = {
    "policy": {"path": SHIPPED_POLICIES / "guarded.onnx"},
    "model-based": {"futures": 2},
    "optuna-gp": {"windows_per_trial": 60},
}


@pytest.mark.parametrize("name", TUNERS)
def test_no_window_and_no_detail_makes_a_tuner_raise(name):
    if name.startswith("optuna"):
        pytest.importorskip("optuna")
    if name == "optuna-cmaes":
        pytest.importorskip("cmaes")
    rng = np.random.default_rng(12)
    for number, slo in enumerate((None, SLO(2000.0, 100.0))):
        make = partial(make_tuner, name, slo=slo, seed=1, track="guarded", **OPTIONS.get(name, {}))
        tuner, clock_ms = make(), 0.0
        for window in range(WINDOWS // 2):
            hostile = bool(rng.random() < 0.7)
            clock_ms += 1000.0 if rng.random() < 0.98 else float(rng.uniform(-1e6, 1e6))
            if tuner.needs_details:
                tuner.study(details(clock_ms, rng, hostile=hostile))
            tell = hostile_window if hostile else sane_window
            tuner.tell(tell(tuner.ask(), clock_ms - 1000.0, rng))
            assert isinstance(tuner.ask(), Limits), (number, window)
        json.dumps(tuner.status(), allow_nan=False)
        state = json.loads(json.dumps(tuner.state_dict(), allow_nan=False))
        again = make()
        again.load_state_dict(state)
        assert again.ask() == tuner.ask()
