"""Charts, read back as the SVG that a page would hold."""

import math
import re
from xml.etree import ElementTree

import pytest
from synthetic_results import GOODPUT, SCENARIOS, result_curves, result_row, result_rows

from batchpilot.runners.report.plots import goodput_by_strategy, over_time, ratio_by_scenario, refusals_by_quartile
from batchpilot.runners.report.summary import OVERALL, summarise

STRATEGIES = ("aimd", "dynamic", "guarded-default")
INTERVAL = "stroke-width: 2"


@pytest.fixture(scope="module")
def summary():
    return summarise(result_rows())


@pytest.fixture(scope="module")
def charts(summary):
    return {
        "goodput": goodput_by_strategy(summary),
        "ratio": ratio_by_scenario(summary),
        "time": over_time(result_curves(), "burst-h100", summary),
        "refusals": refusals_by_quartile(summary),
    }


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter("text")]


def ids(svg):
    return [element.get("id") for element in ElementTree.fromstring(svg).iter() if element.get("id")]


def test_every_chart_is_one_svg_element_that_needs_nothing_else(charts):
    for svg in charts.values():
        assert ElementTree.fromstring(svg).tag == "svg"
        assert "http" not in svg
        assert "<style" not in svg
        assert set(re.findall(r'href="(.)', svg)) <= {"#"}
        assert set(re.findall(r"url\((.)", svg)) <= {"#"}


def test_every_title_asks_a_question_that_a_screen_reader_hears_too(charts):
    for svg in charts.values():
        label = ElementTree.fromstring(svg).get("aria-label")
        assert "?" in label
        assert label in texts(svg)


def test_ids_of_charts_in_one_page_never_clash(charts, summary):
    other = over_time(result_curves(), "shift-t4", summary)
    found = [name for svg in (*charts.values(), other) for name in ids(svg)]
    assert len(found) == len(set(found))


def test_references_within_a_chart_lead_to_its_own_ids(charts):
    for svg in charts.values():
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) <= set(ids(svg))


def test_the_same_figures_give_the_same_chart(summary, charts):
    assert goodput_by_strategy(summary) == charts["goodput"]


@pytest.mark.parametrize(
    ("chart", "unit"),
    [
        ("goodput", "Goodput share: offered output tokens served within SLO (interquartile mean, 95 % interval)"),
        ("ratio", "Goodput ÷ static-best (interquartile mean, 95 % interval); right of 1 is better"),
        ("time", "Engine time, s"),
        ("time", "Queue, requests"),
        ("time", "Goodput, tokens/s"),
        ("refusals", "Requests refused"),
    ],
)
def test_axes_say_what_they_measure(charts, chart, unit):
    assert unit in texts(charts[chart])


def test_strategies_are_named_and_references_carry_their_figure(charts, summary):
    overall = [row for row in summary if row["scenario"] == OVERALL]
    shown = texts(charts["goodput"])
    assert set(STRATEGIES) <= set(shown)
    for row in overall:
        if row["is_reference"]:
            assert f"reference {row['tuner']} {row['goodput_fraction']:.3f}" in shown


def test_intervals_are_drawn_where_seeds_give_them_and_never_for_one_seed(charts):
    single = summarise(result_rows(seeds=1))
    assert charts["goodput"].count(INTERVAL) == len(STRATEGIES)
    assert charts["ratio"].count(INTERVAL) == len(STRATEGIES) * len(SCENARIOS)
    assert INTERVAL not in goodput_by_strategy(single)
    assert INTERVAL not in ratio_by_scenario(single)


def test_strategies_differ_in_grey_by_marker_and_references_by_dashes(charts):
    markers = re.findall(r'<use href="#([^"]+)"[^>]*fill: #', charts["ratio"])
    assert len(set(markers)) == len(STRATEGIES)
    dashes = set(re.findall(r"stroke-dasharray: ([^;]+);", charts["goodput"]))
    assert len(dashes) == len(GOODPUT) - len(STRATEGIES)


@pytest.mark.parametrize(("share", "shown"), [(0.0, "0.00"), (0.9, "45.00")])
def test_a_ratio_off_the_axis_stands_at_the_edge_with_its_value(share, shown):
    rows = [
        result_row(tuner=tuner, seed=seed, goodput_fraction=value)
        for tuner, value in (("dynamic", share), ("static-best", 0.02))
        for seed in range(2)
    ]
    assert shown in texts(ratio_by_scenario(summarise(rows)))


def test_numbers_in_names_are_left_as_they_are(summary):
    rows = [result_row("rate-1.23456", tuner) for tuner in ("dynamic", "static-best")]
    curves = result_curves(("rate-1.23456",), ("dynamic", "static-best"))
    assert any("rate-1.23456" in text for text in texts(over_time(curves, "rate-1.23456", summarise(rows))))


def test_hostile_names_stay_text():
    name = '<script>alert("1")</script> $x^2$ & more'
    rows = [result_row(name, tuner) for tuner in (name, "static-best")]
    summary, curves = summarise(rows), result_curves((name,), (name, "static-best"))
    for svg in (
        goodput_by_strategy(summary),
        ratio_by_scenario(summary),
        over_time(curves, name, summary),
        refusals_by_quartile(summary),
    ):
        root = ElementTree.fromstring(svg)
        assert not list(root.iter("script"))
        assert any(name in (text or "") for text in texts(svg))


def test_each_strategy_has_its_own_row_of_panels_with_the_references_behind(charts):
    assert set(STRATEGIES) <= set(texts(charts["time"]))
    assert {"static-8", "static-default", "static-best"} <= set(texts(charts["time"]))
    assert charts["time"].count("stroke-width: 1.5") == 3 * len(STRATEGIES) + 1


def test_long_runs_are_thinned_to_what_a_screen_shows(summary):
    scenario, tuners = ("chat-a100",), tuple(GOODPUT)
    short = over_time(result_curves(scenario, tuners, windows=200), "chat-a100", summary)
    long = over_time(result_curves(scenario, tuners, windows=8000), "chat-a100", summary)
    assert len(long) < 2 * len(short)


def test_only_references_or_nothing_measured_still_gives_charts():
    references = summarise(result_rows(tuners=("static-8", "static-best")))
    nothing = summarise([result_row(goodput_fraction=math.nan, **{f"refused_q{k}": math.nan for k in (1, 2, 3, 4)})])
    for summary in (references, nothing):
        for svg in (goodput_by_strategy(summary), ratio_by_scenario(summary), refusals_by_quartile(summary)):
            assert ElementTree.fromstring(svg).tag == "svg"
    curves = result_curves(("chat-a100",), ("static-8", "static-best"))
    assert "static-best" in texts(over_time(curves, "chat-a100", references))
