"""The regression gate of the leaderboard."""

import json
import math

import pytest

from batchpilot.runners.leaderboard.regression import load_baseline, regression_grid, regressions, save_baseline

ROW = {
    "scenario": "tiny",
    "tuner": "aimd",
    "throughput_tokens_per_s": 1000.0,
    "utilisation": 0.5,
    "e2e_p95_ms": 2000.0,
    "success_rate": 0.6,
    "refused_fraction": 0.4,
}


def changed(**changes):
    return [regression.figure for regression in regressions([ROW | changes], [ROW])]


def test_equal_figures_pass():
    assert changed() == []


@pytest.mark.parametrize(
    ("column", "figure", "allowed", "too_far"),
    [
        ("throughput_tokens_per_s", "throughput", 900.0, 899.0),
        ("utilisation", "utilisation", 0.4, 0.399),
        ("e2e_p95_ms", "p95 latency", 2400.0, 2401.0),
        ("success_rate", "success", 0.594, 0.593),
        ("refused_fraction", "refused", 0.41, 0.411),
    ],
)
def test_each_figure_has_the_bound_of_the_tuner_document(column, figure, allowed, too_far):
    assert changed(**{column: allowed}) == []
    assert changed(**{column: too_far}) == [figure]


def test_an_undefined_figure_passes_only_if_it_always_was():
    assert changed(e2e_p95_ms=math.nan) == ["p95 latency"]
    undefined = ROW | {"e2e_p95_ms": math.nan}
    assert regressions([undefined], [undefined]) == []


def test_refusing_more_for_the_sake_of_latency_is_a_regression():
    assert changed(success_rate=0.596, refused_fraction=0.42, e2e_p95_ms=900.0) == ["refused"]


def test_a_figure_that_was_undefined_survives_the_file(tmp_path):
    undefined = ROW | {"e2e_p95_ms": math.nan}
    path = save_baseline(tmp_path / "base.json", [undefined], {})
    assert "NaN" not in path.read_text()
    assert regressions([undefined], load_baseline(path)) == []


def test_what_only_one_side_holds_is_a_failure():
    found = regressions([ROW | {"tuner": "new"}], [ROW])
    assert [(one.tuner, one.figure) for one in found] == [("new", "not in the baseline"), ("aimd", "not measured now")]


def test_the_table_names_figure_and_bound():
    grid = regression_grid(regressions([ROW | {"utilisation": 0.1}], [ROW]))
    assert [cell.text for cell in grid.rows[0]] == ["tiny", "aimd", "utilisation", "0.500", "0.100", ">= 0.8 x"]


def test_a_baseline_survives_its_file_and_another_file_is_refused(tmp_path):
    path = save_baseline(tmp_path / "base.json", [ROW, ROW | {"scenario": "(overall)"}], {"git_revision": "abc"})
    assert load_baseline(path) == [ROW]
    path.write_text(json.dumps({"rows": [{"scenario": "tiny", "tuner": "aimd"}]}))
    with pytest.raises(ValueError, match="lack e2e_p95_ms, refused_fraction, success_rate"):
        load_baseline(path)
    for text in ("", "[]", '{"rows": []}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="not a leaderboard's baseline"):
            load_baseline(path)
