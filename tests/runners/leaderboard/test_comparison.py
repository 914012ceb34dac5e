"""The tuner document's comparison table and its regression gate."""

import json

import pytest

from batchpilot.configs import TunerConfig
from batchpilot.configs.scenario import scenario
from batchpilot.runners.leaderboard.comparison import compare, load_baseline, regressions, save_baseline


def row(**changes):
    figures = {"throughput_tokens_per_s": 100.0, "utilisation": 0.9, "e2e_p95_ms": 1000.0, "success_rate": 1.0}
    return {"scenario": "closed-loop-8", "tuner": "dynamic", **figures, **changes}


@pytest.fixture(scope="module")
def rows():
    return compare([scenario("closed-loop-32")], ["static-8", "static-32", "dynamic"], 2, TunerConfig())


def test_a_batch_of_8_starves_32_clients(rows):
    by_tuner = {row["tuner"]: row for row in rows}
    assert by_tuner["static-32"]["ratio_to_static_8"] > 1.2
    assert by_tuner["static-8"]["ratio_to_static_8"] == 1.0
    assert max(row["ratio_to_best_static"] for row in rows if row["tuner"].startswith("static")) == 1.0
    for row in rows:
        gain = min(100 * (row["ratio_to_best_static"] - 1), 40)
        settled = 10 if row["convergence_s"] < 60 else 5 if row["convergence_s"] < 120 else 0
        expected = gain + 30 * row["utilisation"] + 20 * row["success_rate"] + settled
        assert row["spec_score"] == pytest.approx(min(max(expected, 0), 100))
    assert all(row["success_rate"] == 1.0 for row in rows)


def test_a_warm_tuner_has_left_its_probe_behind(rows):
    by_tuner = {row["tuner"]: row for row in rows}
    assert by_tuner["dynamic (warm)"]["throughput_tokens_per_s"] > by_tuner["dynamic"]["throughput_tokens_per_s"]
    assert by_tuner["dynamic (warm)"]["ratio_to_static_8"] > 1.2


def test_equal_figures_pass_the_gate(rows, tmp_path):
    save_baseline(tmp_path / "baseline.json", rows, TunerConfig(), 2)
    assert regressions(rows, load_baseline(tmp_path / "baseline.json")) == []
    assert json.loads((tmp_path / "baseline.json").read_text())["git_revision"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"throughput_tokens_per_s": 89.9}, "throughput 89.9 is below 0.9"),
        ({"utilisation": 0.71}, "utilisation 0.71 is below 0.8"),
        ({"e2e_p95_ms": 1201.0}, "p95 latency 1201 ms is above 1.2"),
        ({"success_rate": 0.98}, "success rate 0.9800 is below 0.99"),
        ({"throughput_tokens_per_s": float("nan")}, "throughput nan"),
    ],
)
def test_each_bound_of_the_gate_fails_alone(change, message):
    found = regressions([row(**change)], [row()])
    assert len(found) == 1
    assert message in found[0]


def test_just_within_every_bound_passes():
    worse = row(throughput_tokens_per_s=90.1, utilisation=0.721, e2e_p95_ms=1199.0, success_rate=0.991)
    assert regressions([worse], [row()]) == []


def test_a_row_on_one_side_only_fails_the_gate():
    assert "does not hold it" in regressions([row(tuner="new")], [row()])[0]
    assert "not measured now" in regressions([], [row()])[0]


@pytest.mark.parametrize("content", ["{", "{}", '{"rows": []}', '{"rows": [{"tuner": "dynamic"}]}'])
def test_a_file_that_is_no_baseline_is_refused_by_name(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"other\.json"):
        load_baseline(path)
