"""No tuner that a name makes ever raises, hangs or learns what is no number, whatever it is told.

Each hears 2,000 windows here, a minute for all on two quiet cores; `BATCHPILOT_HOSTILE_WINDOWS=100000 pytest
tests/tuners/test_hostile_windows.py` is long, and `-s` prints what each took. One window in twenty is told to tuners as
they are by default. The others go to ones that take less time for the same: `model-based` with two futures and a small
budget of work, and `optuna-gp` with longer trials, since each new one costs it a second of Optuna's Gaussian process.
"""

from __future__ import annotations

import json
import os
import time
from functools import partial

import numpy as np
import pytest
from hostile_windows import details, hostile_window, sane_window

from batchpilot.core import SLO, Limits
from batchpilot.tuners import TUNERS, make_tuner
from batchpilot.tuners.planning import SHIPPED_POLICIES

WINDOWS = int(os.environ.get("BATCHPILOT_HOSTILE_WINDOWS", "2000"))

NEEDED = {"policy": {"path": SHIPPED_POLICIES / "guarded.onnx"}}
QUICKER = {"model-based": {"futures": 2, "most_work": 30_000}, "optuna-gp": {"windows_per_trial": 80}}


@pytest.mark.parametrize("name", TUNERS)
def test_no_window_and_no_detail_makes_a_tuner_raise(name):
    if name.startswith("optuna"):
        pytest.importorskip("optuna")
    if name == "optuna-cmaes":
        pytest.importorskip("cmaes")
    rng = np.random.default_rng(12)
    quicker, usual, promised = QUICKER.get(name, {}), WINDOWS // 20, SLO(2000.0, 100.0)
    many = (WINDOWS - usual) // 2
    told_s = longest_s = 0.0
    for slo, options, windows in ((promised, {}, usual), (None, quicker, many), (promised, quicker, many)):
        make = partial(make_tuner, name, slo=slo, seed=1, track="guarded", **NEEDED.get(name, {}), **options)
        tuner, clock_ms = make(), 0.0
        for window in range(windows):
            hostile = bool(rng.random() < 0.7)
            clock_ms += 1000.0 if rng.random() < 0.98 else float(rng.uniform(-1e6, 1e6))
            known = details(clock_ms, rng, hostile=hostile) if tuner.needs_details else None
            tell = hostile_window if hostile else sane_window
            told = tell(tuner.ask(), clock_ms - 1000.0, rng)
            began_s = time.perf_counter()
            if known is not None:
                tuner.study(known)
            tuner.tell(told)
            took_s = time.perf_counter() - began_s
            told_s, longest_s = told_s + took_s, max(longest_s, took_s)
            assert isinstance(tuner.ask(), Limits), (slo, window)
        json.dumps(tuner.status(), allow_nan=False)
        state = json.loads(json.dumps(tuner.state_dict(), allow_nan=False))
        again = make()
        again.load_state_dict(state)
        assert again.ask() == tuner.ask()
    print(f"{name}: {told_s:.1f} s for {usual + 2 * many} windows, {longest_s:.2f} s for the longest")
