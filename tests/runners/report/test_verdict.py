"""The sentences that a leaderboard begins with."""

import pytest
from synthetic_results import result_row, result_rows

from batchpilot.runners.report.short import places_grid, winners_grid
from batchpilot.runners.report.summary import summarise
from batchpilot.runners.report.tables import SHORT_WIDTH, render, short_tables
from batchpilot.runners.report.verdict import verdict


def summary_of(shares, scenarios=("a", "b"), **columns):
    rows = [
        result_row(scenario=scenario, tuner=tuner, seed=seed, goodput_fraction=share, **columns)
        for scenario in scenarios
        for tuner, share in shares.items()
        for seed in (0, 1)
    ]
    return summarise(rows)


def test_the_winner_is_named_with_its_share_and_that_of_what_servers_ship():
    first = verdict(summary_of({"aimd": 0.9, "dynamic": 0.5, "static-default": 0.4}))[0]
    assert first.startswith("aimd")
    assert "wins: 90.0% [90.0%\u201390.0%] of the offered tokens within the promise" in first
    assert first.endswith("static-default, what servers ship, 40.0% [40.0%\u201340.0%].")


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        (
            {"aimd": 0.9, "dynamic": 0.895, "hybrid": 0.2, "static-default": 0.1},
            "Within a point of it: dynamic; the choice",
        ),
        ({"aimd": 0.9, "dynamic": 0.5, "static-default": 0.1}, "No other of the 2 strategies is within a point"),
        (
            {"aimd": 1.0, "dynamic": 0.995, "static-default": 0.999},
            "It does not matter here: static-default and 2 of 2",
        ),
    ],
)
def test_it_says_whether_the_choice_matters(shares, words):
    assert verdict(summary_of(shares))[1].startswith(words)


def test_a_load_that_all_scenarios_share_is_said():
    told = verdict(summary_of({"aimd": 1.0, "static-default": 1.0}, load="0.30 of the estimated capacity"))
    assert "at 0.30 of the estimated capacity" in told[1]


def test_hindsight_is_told_with_losses_beside_wins():
    told = " ".join(verdict(summarise(result_rows())))
    assert "times what the best fixed setting in hindsight does: better in" in told
    assert ", worse in " in told


def test_without_a_strategy_nobody_wins():
    assert verdict(summary_of({"static-default": 0.5})) == ["Only references ran: there is no strategy to judge."]


def test_the_two_tables_fit_a_hundred_columns():
    text = render(short_tables(summarise(result_rows())), width=SHORT_WIDTH)
    assert max(map(len, text.splitlines())) <= SHORT_WIDTH
    assert "…" not in text


def cells(grid):
    return {
        row[0].text.split()[-1 if "†" not in row[0].text else -2]: [cell.text for cell in row[1:]] for row in grid.rows
    }


def test_what_is_lost_stands_by_scenario_and_by_family_of_many():
    few = summary_of({"aimd": 0.9, "static-default": 0.4})
    assert places_grid(few).columns == ("Strategy", "a", "b")
    assert cells(places_grid(few))["aimd"] == ["10.0%", "10.0%"]
    many = summary_of({"aimd": 0.9, "static-default": 0.4}, [f"s{k}" for k in range(9)], family="steady")
    assert places_grid(many).columns == ("Strategy", "steady")


def test_one_scenario_shows_the_limits_that_each_strategy_ended_with():
    grid = places_grid(summary_of({"aimd": 0.9}, ("a",), limits="batch_size=8,token_budget=64"))
    assert cells(grid)["aimd"][-1] == "batch_size=8, token_budget=64"


def test_lost_is_what_is_not_kept():
    assert cells(winners_grid(summary_of({"aimd": 0.9, "static-default": 0.4})))["static-default"][1] == "60.0%"
