"""Summary rows: averages, ratios and scores by hand arithmetic, and a CSV that reads back."""

import csv
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_results import SCENARIOS, result_row, result_rows

from batchpilot.runners.report.summary import MEANS, OVERALL, spec_score, summarise, write_csv


def only(summary, scenario, tuner):
    (row,) = [row for row in summary if (row["scenario"], row["tuner"]) == (scenario, tuner)]
    return row


def same(ours, theirs):
    """Equality of rows in which NaN equals NaN."""
    return repr(ours) == repr(theirs)


def test_the_scores_gain_is_over_the_best_static_size_of_the_run():
    at = {"dynamic": 110.0, "static-8": 50.0, "static-64": 100.0}
    whole = {"utilisation": 1.0, "success_rate": 1.0, "convergence_s": 30.0}
    rows = [
        {**row, **whole, "tuner": name, "throughput_tokens_per_s": throughput}
        for row in result_rows(tuners=("dynamic",))
        for name, throughput in at.items()
    ]
    score = {name: only(summarise(rows), OVERALL, name)["spec_score"] for name in at}
    assert score == pytest.approx({"dynamic": 70.0, "static-64": 60.0, "static-8": 10.0})


def test_there_is_one_row_for_every_scenario_and_strategy_and_one_overall():
    rows = result_rows()
    summary = summarise(rows)
    tuners = {row["tuner"] for row in rows}
    assert sorted((row["scenario"], row["tuner"]) for row in summary) == sorted(
        (scenario, tuner) for scenario in (OVERALL, *SCENARIOS) for tuner in tuners
    )
    assert [row["scenario"] for row in summary[: len(tuners)]] == [OVERALL] * len(tuners)


def test_the_best_goodput_comes_first_in_each_scenario():
    summary = summarise(result_rows())
    for scenario in (OVERALL, *SCENARIOS):
        shares = [row["goodput_fraction"] for row in summary if row["scenario"] == scenario]
        assert shares == sorted(shares, reverse=True)


def test_goodput_is_an_interquartile_mean_and_the_rest_are_means():
    values = [0.1, 0.2, 0.4, 0.9]
    rows = [
        result_row(seed=seed, goodput_fraction=value, goodput_tokens_per_s=10 * value, utilisation=value)
        for seed, value in enumerate(values)
    ]
    row = only(summarise(rows), "chat-a100", "dynamic")
    assert row["goodput_fraction"] == pytest.approx(0.3)
    assert row["goodput_tokens_per_s"] == pytest.approx(3.0)
    assert row["utilisation"] == pytest.approx(0.4)
    assert row["goodput_fraction_low"] < 0.3 < row["goodput_fraction_high"]


def test_each_scenario_weighs_the_same_in_an_overall_mean_however_many_seeds_it_has():
    rows = [result_row("a", seed=seed, utilisation=0.9) for seed in range(3)] + [result_row("b", utilisation=0.5)]
    assert only(summarise(rows), OVERALL, "dynamic")["utilisation"] == pytest.approx(0.7)


def test_a_mean_over_part_of_the_runs_is_said_to_be_one():
    rows = [
        result_row(seed=seed, convergence_s=value, tpot_p95_ms=math.nan)
        for seed, value in enumerate([10.0, math.nan, 20.0])
    ]
    row = only(summarise(rows), OVERALL, "dynamic")
    assert row["convergence_s"] == pytest.approx(15.0)
    assert row["converged_fraction"] == pytest.approx(2 / 3)
    assert row["partly_undefined"] == "convergence_s"
    assert math.isnan(row["tpot_p95_ms"])


def test_columns_without_a_single_figure_stay_missing():
    rows = [result_row(**dict.fromkeys(MEANS, math.nan), goodput_fraction=math.nan, goodput_tokens_per_s=math.nan)]
    row = only(summarise(rows), OVERALL, "dynamic")
    assert all(math.isnan(row[column]) for column in (*MEANS, "goodput_fraction", "goodput_tokens_per_s"))
    assert row["converged_fraction"] == 0


def test_ratios_are_stated_to_every_reference_that_ran_and_to_no_other():
    rows = result_rows(tuners=("dynamic", "aimd", "static-8"))
    row = only(summarise(rows, references=("static-8", "static-best", "aimd")), OVERALL, "dynamic")
    stated = {column for column in row if column.startswith("ratio_") and "_l" not in column and "_h" not in column}
    assert stated == {"ratio_static-8", "ratio_aimd"}
    assert row["ratio_static-8_low"] <= row["ratio_static-8"] <= row["ratio_static-8_high"]


def test_a_named_reference_is_marked_as_one():
    summary = summarise(result_rows(), references=("aimd",))
    assert {row["tuner"] for row in summary if row["is_reference"]} == {"aimd"}


def test_one_seed_gives_figures_without_intervals():
    for row in summarise(result_rows(seeds=1)):
        assert math.isfinite(row["goodput_fraction"])
        assert math.isnan(row["goodput_fraction_low"])
        assert math.isnan(row["ratio_static-best_high"])


def test_a_scenario_that_the_reference_missed_has_no_ratio():
    rows = [*result_rows(), result_row("extra", "dynamic", 0)]
    assert math.isnan(only(summarise(rows), "extra", "dynamic")["ratio_static-8"])


def test_the_order_of_rows_changes_no_figure():
    rows = result_rows()
    key = lambda row: (row["scenario"], row["tuner"])  # noqa: E731
    ours = sorted(summarise(rows), key=key)
    theirs = sorted(summarise(random.Random(0).sample(rows, len(rows))), key=key)
    assert all(same(one, other) for one, other in zip(ours, theirs, strict=True))


def test_origins_that_differ_between_runs_are_called_mixed():
    rows = [result_row(seed=0), result_row(seed=1, git_revision="fedcba543210-dirty")]
    row = only(summarise(rows), OVERALL, "dynamic")
    assert (row["git_revision"], row["config_hash"]) == ("mixed", "0123456789ab")


@pytest.mark.parametrize(
    ("gain", "utilisation", "success", "convergence_s", "score"),
    [
        (25.0, 0.8, 0.99, 30.0, 25 + 24 + 19.8 + 10),
        (55.0, 1.0, 1.0, 59.9, 100.0),
        (40.0, 0.5, 1.0, 60.0, 40 + 15 + 20 + 5),
        (10.0, 0.5, 1.0, 120.0, 10 + 15 + 20),
        (-12.0, 0.5, 1.0, math.nan, -12 + 15 + 20),
        (-90.0, 0.5, 1.0, 10.0, 0.0),
        (math.inf, 0.0, 0.0, math.nan, 40.0),
        (10.0, math.nan, math.nan, math.nan, 10.0),
    ],
)
def test_score_follows_the_formula_of_the_source_documents(gain, utilisation, success, convergence_s, score):
    assert spec_score(gain, utilisation, success, convergence_s) == pytest.approx(score)


@given(st.floats(allow_nan=False), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1e6))
def test_score_stays_within_its_range(gain, utilisation, success, convergence_s):
    assert 0 <= spec_score(gain, utilisation, success, convergence_s) <= 100


def test_score_measures_throughput_against_the_named_reference_run_by_run():
    rows = [
        result_row(tuner=tuner, seed=seed, throughput_tokens_per_s=value, utilisation=0.5, success_rate=1.0)
        for tuner, values in (("dynamic", (110.0, 300.0)), ("static-8", (100.0, 200.0)))
        for seed, value in enumerate(values)
    ]
    summary = summarise(rows)
    # Gains 10 % and 50 %, of which 40 count; utilisation 15, success 20, convergence in 24 s 10.
    assert only(summary, OVERALL, "dynamic")["spec_score"] == pytest.approx((10 + 40) / 2 + 45)
    assert only(summary, OVERALL, "static-8")["spec_score"] == pytest.approx(45)
    assert math.isnan(only(summarise(rows, score_reference="absent"), OVERALL, "dynamic")["spec_score"])


def test_score_against_a_reference_that_generated_nothing_counts_the_whole_gain():
    rows = [result_row(utilisation=0.0, success_rate=0.0, convergence_s=math.nan)]
    rows.append(result_row(tuner="static-8", throughput_tokens_per_s=0.0))
    assert only(summarise(rows), OVERALL, "dynamic")["spec_score"] == 40


def test_csv_keeps_the_order_of_columns_and_every_float(tmp_path):
    values = [0.1 + 0.2, 1e-300, math.inf, np.float64(1 / 3), -0.0]
    rows = [{"name": 'a "b", c', "value": value, "count": k} for k, value in enumerate(values)]
    path = write_csv(tmp_path / "new" / "rows.csv", [*rows, {"name": "later", "extra": math.nan}])
    with path.open(newline="") as file:
        back = list(csv.DictReader(file))
    assert list(back[0]) == ["name", "value", "count", "extra"]
    assert [float(row["value"]) for row in back[:-1]] == values
    assert back[0]["name"] == 'a "b", c'
    assert (back[-1]["value"], back[-1]["extra"]) == ("", "nan")


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=20))
def test_every_float_of_a_csv_reads_back_equal(tmp_path_factory, values):
    path = write_csv(tmp_path_factory.getbasetemp() / "floats.csv", [{"value": value} for value in values])
    with path.open(newline="") as file:
        assert [float(row["value"]) for row in csv.DictReader(file)] == values


def test_a_summary_reads_back_from_its_csv(tmp_path):
    summary = summarise(result_rows())
    with write_csv(tmp_path / "summary.csv", summary).open(newline="") as file:
        back = list(csv.DictReader(file))
    assert [float(row["ratio_static-best_low"]) for row in back] == [row["ratio_static-best_low"] for row in summary]
