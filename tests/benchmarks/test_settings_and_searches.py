"""What a calibration and searches make of measured settings: of a table that a simulation filled in place of vLLM."""

import json
from pathlib import Path

import numpy as np
import pytest

from batchpilot import SaturationParameters
from batchpilot.engines import EngineConfig, SimulatedEngine
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.runners.tuning.live.trial import seen_steps
from batchpilot.runners.tuning.live.trials import COMPLETE, Trial

ROOM = Path(__file__).parents[2] / "benchmarks" / "real"
SERVER = SaturationParameters(p_max=0.724, k_b=10.0, k_s=0.05, tau_0=20.0, tau_b=1.5, tau_c=1e-4)
RATE_PER_S = 4.0
REPEATS = 2


@pytest.fixture
def room(monkeypatch):
    """The room's modules can be imported."""
    monkeypatch.syspath_prepend(str(ROOM))


def line(settings, limits, repeat):
    """A run as `settings.py` writes it."""
    config = EngineConfig(latency=SERVER, kv_capacity_tokens=settings.KV_TOKENS, noise=0.1, front_ms=80.0, seed=repeat)
    engine = SimulatedEngine(config, settings.requests_in(RATE_PER_S, repeat))
    horizon_ms = 1000.0 * (settings.SECONDS + settings.GRACE_S)
    outcome = run_engine(engine, limits, window_ms=1000.0, horizon_ms=horizon_ms)
    figures = {f"{name}_p{q}_ms": outcome.percentile_ms(f"{name}_ms", q) for name in ("ttft", "tpot") for q in (50, 95)}
    share = outcome.goodput_fraction
    steps = seen_steps(outcome, repeat)
    trial = Trial(1, limits, COMPLETE, goodput=share, low=share, high=share, figures=figures, steps=steps)
    return {"trial": json.loads(trial.to_line()), "start_s": 60.0, "rate_per_s": RATE_PER_S, "repeat": repeat}


def test_the_true_parameters_foretell_the_order_and_every_search_is_told(room, tmp_path, capsys, monkeypatch):
    pytest.importorskip("optuna")
    import searches
    import settings

    lines = [line(settings, limits, repeat) for limits in settings.SETTINGS for repeat in range(REPEATS)]
    shares = [np.mean([one["trial"]["goodput"] for one in lines[k : k + REPEATS]]) for k in range(0, 32, REPEATS)]
    assert max(shares) - np.median(shares) > 2 * searches.ENOUGH, "the settings must differ"
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    parameters = json.dumps(SERVER.to_dict())
    (tmp_path / "calibration.yaml").write_text(f"parameters: {parameters}\nnoise: 0.1\nfront_ms: 80.0\n")
    monkeypatch.setattr("sys.argv", ["searches.py", str(tmp_path), "--seeds", "4"])
    searches.main()
    assert "| batch size | token budget |" in capsys.readouterr().out
    found = json.loads((tmp_path / "compared.json").read_text())
    assert found["calibration"]["kendall_tau"] > 0.9
    assert min(found["calibration"]["within_15_percent"].values()) > 0.9
    assert set(found["searches"]) == {"twin", "tpe", "random", "sweep", "grid"}
    assert found["searches"]["grid"]["missed"] == found["searches"]["random"]["missed"] == 0.0
    assert found["searches"]["twin"]["starts"][1] <= found["searches"]["random"]["starts"][1]


def test_every_repeat_has_an_order_of_its_own_and_the_default_is_first(room):
    import settings

    order = list(settings.in_order(3))
    assert order[0] == (0, settings.DEFAULT)
    by_repeat = [[limits for repeat, limits in order if repeat == wanted] for wanted in range(3)]
    assert [set(those) for those in by_repeat] == [set(settings.SETTINGS)] * 3
    assert len(order) == 3 * len(settings.SETTINGS)
    assert by_repeat[1] != by_repeat[2]


def test_settings_that_were_not_measured_yet_are_said(room, tmp_path, monkeypatch):
    import searches

    monkeypatch.setattr("sys.argv", ["searches.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="16 settings were not measured yet"):
        searches.main()
