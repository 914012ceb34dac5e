"""Performance profiles and the share of the gap closed."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_results import result_row

from batchpilot.runners.leaderboard.comparison_grids import family_grid, improvement_grid
from batchpilot.runners.report.profiles import gap_closed, performance_profile
from batchpilot.runners.report.summary import OVERALL, summarise, summarise_families

GAP = ("static-best", "clairvoyant")


def rows_of(shares, **columns):
    """Result rows from {tuner: {scenario: goodput by seed}}."""
    return [
        result_row(tuner=tuner, scenario=scenario, seed=seed, goodput_fraction=value, **columns)
        for tuner, places in shares.items()
        for scenario, values in places.items()
        for seed, value in enumerate(values)
    ]


def test_a_profile_is_the_share_of_runs_that_reach_each_ratio():
    rows = rows_of({"mine": {"a": [0.4, 0.8], "b": [0.9, 1.0]}, "static-best": {"a": [0.8, 0.8], "b": [1.0, 1.0]}})
    profile = performance_profile(rows, "mine", "static-best", [0.0, 0.5, 0.9, 0.95, 1.0, 1.01])
    assert profile.share.tolist() == [1.0, 1.0, 0.75, 0.5, 0.5, 0.0]
    assert np.all(profile.low <= profile.share)
    assert np.all(profile.share <= profile.high)


def test_one_seed_gives_a_profile_without_a_band():
    profile = performance_profile(
        rows_of({"mine": {"a": [0.4]}, "static-best": {"a": [0.8]}}), "mine", "static-best", [0.5]
    )
    assert profile.share.tolist() == [1.0]
    assert np.isnan(profile.low).all()


def test_a_run_that_the_reference_lost_has_no_place_in_a_profile():
    rows = rows_of({"mine": {"a": [0.4, 0.4]}, "static-best": {"a": [0.0, 0.4]}})
    assert performance_profile(rows, "mine", "static-best", [0.9]).share.tolist() == [1.0]
    lost = rows_of({"mine": {"a": [0.4]}, "static-best": {"a": [0.0]}})
    with pytest.raises(ValueError, match="no run on which static-best served"):
        performance_profile(lost, "mine", "static-best", [0.9])


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=8), st.lists(st.floats(0.01, 1.0), min_size=2, max_size=8))
def test_a_profile_never_rises(ours, theirs):
    n = min(len(ours), len(theirs))
    rows = rows_of({"mine": {"a": ours[:n]}, "static-best": {"a": theirs[:n]}})
    profile = performance_profile(rows, "mine", "static-best", np.linspace(0, 2, 21))
    assert np.all(np.diff(profile.share) <= 0)
    assert profile.share[0] == 1.0


def test_the_gap_is_nought_at_one_reference_and_one_at_the_other():
    rows = rows_of({"static-best": {"a": [0.5, 0.6]}, "clairvoyant": {"a": [0.7, 0.8]}, "mine": {"a": [0.6, 0.7]}})
    assert gap_closed(rows, "static-best", *GAP).overall.value == 0.0
    assert gap_closed(rows, "clairvoyant", *GAP).overall.value == 1.0
    mine = gap_closed(rows, "mine", *GAP).overall
    assert (mine.value, mine.low, mine.high) == pytest.approx((0.5, 0.5, 0.5))


def test_a_loss_is_a_negative_share_and_scenarios_weigh_by_their_room():
    rows = rows_of(
        {
            "static-best": {"a": [0.5, 0.5], "b": [0.9, 0.9]},
            "clairvoyant": {"a": [0.7, 0.7], "b": [0.9, 0.9]},
            "mine": {"a": [0.6, 0.6], "b": [0.8, 0.8]},
        }
    )
    found = gap_closed(rows, "mine", *GAP)
    assert found.per_scenario["a"].value == pytest.approx(0.5)
    assert math.isnan(found.per_scenario["b"].value)
    assert found.overall.value == pytest.approx(0.0, abs=1e-12)


@pytest.fixture
def figures():
    shares = {
        "mine": {"a": [0.90, 0.91, 0.92], "b": [0.4, 0.41, 0.42]},
        "other": {"a": [0.2, 0.3, 0.4], "b": [0.6, 0.61, 0.62]},
        "static-best": {"a": [0.8, 0.8, 0.8], "b": [0.5, 0.5, 0.5]},
        "clairvoyant": {"a": [0.95, 0.95, 0.95], "b": [0.7, 0.7, 0.7]},
    }
    return [row | {"family": "drift" if row["scenario"] == "a" else "bursty"} for row in rows_of(shares)]


def test_each_family_counts_its_own_wins_and_losses(figures):
    grid = family_grid(summarise_families(figures), summarise(figures))
    place = {header.replace("\n", ""): k for k, header in enumerate(grid.columns)}
    lines = {row[0].text: row for row in grid.rows}
    assert lines["drift"][place["mine"]].text == "0.910 ▲ 1:0"
    assert lines["bursty"][place["mine"]].text == "0.410 ▼ 0:1"
    assert lines["bursty"][place["other"]].text == "0.610 ▲ 1:0"
    assert (lines["drift"][place["mine"]].best, lines["drift"][place["other"]].best) == (True, False)
    assert lines["drift"][place["static-best †"]].text == "0.800"


def test_a_family_without_a_strategy_shows_a_dash(figures):
    rows = [row for row in figures if (row["tuner"], row["family"]) != ("other", "drift")]
    grid = family_grid(summarise_families(rows), summarise(rows))
    column = grid.columns.index("other")
    assert {row[0].text: row[column].text for row in grid.rows} == {"drift": "-", "bursty": "0.610 ▲ 1:0"}


def test_improvement_and_gap_stand_with_their_intervals(figures):
    summary = summarise(figures)
    overall = {row["tuner"]: row for row in summary if row["scenario"] == OVERALL}
    assert overall["mine"]["improves_on_static-best"] == 0.5
    assert overall["mine"]["gap_closed"] == pytest.approx((0.11 - 0.09) / (0.15 + 0.2))
    grid = improvement_grid(summary)
    assert grid.columns[-1] == "gap closed"
    mine = next(row for row in grid.rows if row[0].text == "mine")
    assert mine[1].text == "0.500 [0.500\u20130.500]"


def test_without_a_clairvoyant_there_is_no_gap(figures):
    summary = summarise([row for row in figures if row["tuner"] != "clairvoyant"])
    assert all("gap_closed" not in row for row in summary)
    assert "gap closed" not in improvement_grid(summary).columns
