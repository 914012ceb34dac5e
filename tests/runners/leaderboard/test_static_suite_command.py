"""Finding `static-suite` again: runs are kept by fingerprint."""

import numpy as np

from batchpilot.baselines.references.static_best import goodput_of
from batchpilot.baselines.references.static_suite import suite_grid
from batchpilot.envs.scenarios import prepare
from batchpilot.runners.leaderboard import static_suite


def test_a_run_is_scored_once_and_kept(tiny, tmp_path, monkeypatch):
    short = tiny.model_copy(update={"duration_s": 2.0})
    first = static_suite.scored(short, 0, tmp_path / "kept")
    grid = suite_grid("guarded")
    assert len(first) == len(grid)
    assert first[40] == goodput_of(prepare(short, 0), grid[40])
    monkeypatch.setattr(static_suite, "goodputs", lambda run: (_ for _ in ()).throw(AssertionError("scored again")))
    assert np.array_equal(static_suite.scored(short, 0, tmp_path / "kept"), first)
    assert len(list((tmp_path / "kept").iterdir())) == 1
