"""What the terminal tables say, read as text."""

import math

import pytest
from synthetic_results import GOODPUT, SCENARIOS, result_row, result_rows

from batchpilot.runners.leaderboard.comparison_grids import family_grid
from batchpilot.runners.report.grids import (
    Cell,
    Grid,
    behaviour_grid,
    mark_of,
    refusal_grid,
    results_grid,
    runs_grid,
    scenario_grid,
)
from batchpilot.runners.report.summary import OVERALL, summarise, summarise_families
from batchpilot.runners.report.tables import WIDTH, leaderboard_tables, render, tables

REFERENCES = ("static-8", "static-default", "static-best")


@pytest.fixture(scope="module")
def summary():
    return summarise(result_rows())


def texts(grid):
    return [[cell.text for cell in row] for row in grid.rows]


def test_tables_fit_a_terminal_of_120_columns_without_losing_a_figure(summary):
    text = render(leaderboard_tables(summary))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text
    best = max((row for row in summary if row["scenario"] == OVERALL), key=lambda row: row["goodput_fraction"])
    ends = f"{best['goodput_fraction_low']:.3f}\u2013{best['goodput_fraction_high']:.3f}"
    assert f"{best['goodput_fraction']:.3f} [{ends}]" in text


def test_strategies_are_ranked_by_goodput_with_references_in_their_place(summary):
    names = [row[0] for row in texts(results_grid(summary))]
    assert names == [
        " 1 guarded-default",
        "   static-best †",
        " 2 dynamic",
        " 3 aimd",
        "   static-default †",
        "   static-8 †",
    ]


def test_references_are_set_apart_behind_the_strategies_of_the_scenario_table(summary):
    columns = [name.replace("\n", "") for name in scenario_grid(summary).columns]
    assert columns == ["Scenario", "guarded-default", "dynamic", "aimd", *(f"{REFERENCES[k]} †" for k in (2, 1, 0))]


def test_the_best_strategy_of_each_scenario_is_marked_and_a_better_reference_is_not(summary):
    grid = scenario_grid(summary)
    for row in grid.rows[: len(SCENARIOS)]:
        shares = {column: float(cell.text.split()[0].rstrip("*")) for column, cell in enumerate(row) if column}
        (best,) = [column for column, cell in enumerate(row) if cell.best]
        assert shares[best] == max(shares[column] for column in shares if not row[column].reference)
        assert "*" in row[best].text
    assert max(float(cell.text) for cell in grid.rows[0] if cell.reference) > float(grid.rows[0][2].text.split("*")[0])


def test_losses_are_marked_and_counted_like_wins(summary):
    grid = scenario_grid(summary)
    marks = [row[1].text.split()[-1] for row in grid.rows[: len(SCENARIOS)]]
    won, lost, worst = texts(grid)[-3:]
    assert marks == ["▼", "▲", "▲", "▲"]
    assert (won[1], lost[1]) == ("3", "1")
    ratios = [row["ratio_static-best"] for row in summary if row["tuner"] == "dynamic" and row["scenario"] != OVERALL]
    assert worst[2] == f"{min(ratios):.3f}"


@pytest.mark.parametrize(
    ("value", "low", "high", "mark"),
    [
        (1.2, 1.1, 1.3, "▲"),
        (0.8, 0.7, 0.9, "▼"),
        (1.2, 0.9, 1.3, "△"),
        (0.8, math.nan, math.nan, "▽"),
        (1.0001, 0.9, 1.1, "="),
        (math.nan, math.nan, math.nan, ""),
    ],
)
def test_a_mark_is_filled_only_when_the_interval_excludes_one(value, low, high, mark):
    assert mark_of({"ratio_r": value, "ratio_r_low": low, "ratio_r_high": high}, "r") == mark


def test_one_seed_shows_a_dash_for_every_interval_and_says_why():
    text = render(tables(results_grid(summarise(result_rows(seeds=1)))))
    assert text.count("[-]") == len(GOODPUT) * (1 + len(REFERENCES))
    assert "no interval" in text


def test_a_scenario_with_several_seeds_is_not_said_to_have_one():
    rows = [result_row("chat", tuner, seed) for tuner in ("mine", "static-8") for seed in (0, 1, 2)]
    assert "One seed" not in results_grid(summarise(rows), "chat").caption
    assert "One seed" in results_grid(summarise(rows[:1]), "chat").caption


def test_nothing_is_said_to_be_marked_against_a_reference_that_did_not_run():
    rows = [result_row(place, tuner, 0) for place in ("chat", "code") for tuner in ("mine", "static-8")]
    summary = summarise(rows)
    captions = [scenario_grid(summary).caption, family_grid(summarise_families(rows), summary).caption]
    assert not any("static-best" in caption for caption in captions)
    assert "better than the reference" not in results_grid(summarise(rows[:1])).caption


def test_what_was_never_measured_is_a_dash():
    rows = [result_row(seed=seed, ttft_p95_ms=math.nan, convergence_s=math.nan) for seed in range(2)]
    grid = behaviour_grid(summarise(rows))
    (row,) = texts(grid)
    assert (row[2], row[grid.columns.index("settled\nafter")]) == ("-", "never")
    assert "nan" not in render(leaderboard_tables(summarise(rows)))


def test_a_mean_over_part_of_the_runs_is_marked_with_its_share():
    rows = [result_row(seed=0, convergence_s=30.0), result_row(seed=1, convergence_s=math.nan)]
    grid = behaviour_grid(summarise(rows))
    (row,) = texts(grid)
    assert row[grid.columns.index("settled\nafter")] == "~30s (50%)"


def test_refusals_show_what_long_prompts_paid():
    rows = [result_row(refused_q1=0.01, refused_q2=0.02, refused_q3=0.1, refused_q4=0.4)]
    assert texts(refusal_grid(summarise(rows))) == [[" 1 dynamic", "1.0%", "2.0%", "10.0%", "40.0%", "+39.0", "0.980"]]


def test_every_run_is_listed_by_seed():
    rows = [result_row(seed=0, goodput_fraction=0.25), result_row(seed=4, goodput_fraction=0.5)]
    grid = runs_grid(rows, "chat-a100", ())
    assert grid.columns == ("Strategy", "seed 0", "seed 4")
    assert texts(grid) == [["dynamic", "0.250", "0.500"]]


def test_a_strategy_that_missed_a_scenario_leaves_a_gap():
    summary = summarise([*result_rows(), result_row("extra", "dynamic", 0)])
    line = next(row for row in texts(scenario_grid(summary)) if row[0] == "extra")
    assert line == ["extra", "-", "0.700*", "-", "-", "-", "-"]


def test_many_columns_become_several_tables_that_repeat_the_first():
    names = tuple(f"strategy-{k}" for k in range(30))
    rows = [result_row(tuner=name, goodput_fraction=0.9 - 0.01 * k) for k, name in enumerate(names)]
    parts = [render([part]) for part in tables(scenario_grid(summarise(rows)))]
    assert len(parts) > 1
    for text in parts:
        assert "chat-a100" in text
        assert max(map(len, text.splitlines())) <= WIDTH
        assert "…" not in text
    assert all(any(f"{row['goodput_fraction']:.3f}" in text for text in parts) for row in rows)


def test_words_are_folded_before_a_table_is_split():
    load, model = "7.78 requests/s, 0.36 of the estimated capacity", "a-name-with-no-place-to-break (fp16)"
    rows = ((Cell("quick-chat"), Cell("TTFT 2000 ms, TPOT 100 ms"), Cell(load), Cell("2 x H100-80GB"), Cell(model)),)
    (table,) = tables(Grid("what", ("Scenario", "promise", "load", "device", "model"), rows))
    shown = render([table])
    assert all(word in shown for cell in rows[0] for word in cell.text.split())
    assert max(map(len, shown.splitlines())) <= WIDTH


def test_text_of_cells_is_never_read_as_markup():
    text = render(tables(Grid("a [b]title[/b]", ("[red]x[/red]",), (), "[i]c[/i]")))
    assert "[red]x[/red]" in text
    assert "[b]title[/b]" in text
    assert "[i]c[/i]" in text
