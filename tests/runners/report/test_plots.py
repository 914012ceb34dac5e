"""Charts, read back as the SVG that a page would hold."""

import math
import re
from xml.etree import ElementTree

import pytest
from synthetic_results import GOODPUT, SCENARIOS, result_curves, result_row, result_rows

from batchpilot.runners.report.over_time import over_time
from batchpilot.runners.report.plots import goodput_by_strategy, ratio_by_scenario, refusals_by_length
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
        "refusals": refusals_by_length(summary),
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
        ("goodput", "Lost share: offered output tokens not served within SLO (interquartile mean, 95 % interval)"),
        ("ratio", "Goodput more or less than static-best's (interquartile mean, 95 % interval); right is better"),
        ("time", "Engine time, s"),
        ("time", "Over the promise"),
        ("time", "Goodput, tokens/s"),
        ("refusals", "Refused: the longest quarter of prompts (full) and all requests (hollow)"),
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
            assert f"reference {row['tuner']} {100 * (1 - row['goodput_fraction']):.1f} %" in shown


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


def test_a_gain_off_the_axis_stands_at_the_edge_with_its_value():
    rows = [
        result_row(tuner=tuner, seed=seed, goodput_fraction=value)
        for tuner, value in (("dynamic", 0.9), ("static-best", 0.02))
        for seed in range(2)
    ]
    assert "+4,400 %" in texts(ratio_by_scenario(summarise(rows)))


def test_strategies_that_lose_next_to_nothing_are_told_apart():
    """The two lie 0.3 points apart near none lost: at least a fifth of the way that 99 points take."""
    lost = {"aimd": 0.002, "dynamic": 0.005, "guarded-default": 0.99}
    rows = [result_row(tuner=tuner, goodput_fraction=1 - value) for tuner, value in lost.items()]
    rows += [result_row(tuner="static-best", goodput_fraction=0.999)]
    svg = ElementTree.fromstring(goodput_by_strategy(summarise(rows)))
    marks = [element for element in svg.iter("use") if "fill: #" in (element.get("style") or "")]
    across = sorted({float(element.get("x")) for element in marks if float(element.get("x")) > 0})
    first, second, last = across[-3:]
    assert second - first > 0.1 * (last - first)


def test_the_limit_that_moved_is_drawn_and_named_and_one_that_stood_still_is_not(summary):
    curves = result_curves(("chat-a100",), ("dynamic", "static-best"))
    curve = curves["chat-a100", "dynamic"]
    windows = len(curve["time_s"])
    curve["batch_size"] = [64.0] * windows
    curve["token_budget"] = [1024.0 * (1 + second % 3) for second in range(windows)]
    shown = " ".join(text or "" for text in texts(over_time(curves, "chat-a100", summary)))
    assert "token_budget" in shown
    assert "batch_size" not in shown
    curve["token_budget"] = [1024.0] * windows
    assert "nothing moved" in " ".join(text or "" for text in texts(over_time(curves, "chat-a100", summary)))


def test_who_refuses_nobody_is_named():
    rows = [
        result_row(tuner="dynamic", refused_q4=0.2, refused_fraction=0.05),
        result_row(tuner="aimd", refused_fraction=0),
    ]
    shown = texts(refusals_by_length(summarise(rows)))
    assert "dynamic" in shown
    assert "Refused nobody: aimd" in shown


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
        refusals_by_length(summary),
    ):
        root = ElementTree.fromstring(svg)
        assert not list(root.iter("script"))
        assert any(name in (text or "") for text in texts(svg))


def test_each_strategy_has_its_own_row_of_panels_with_the_references_behind(charts):
    assert set(STRATEGIES) <= set(texts(charts["time"]))
    assert {"goodput of static-default", "goodput of static-best"} <= set(texts(charts["time"]))


def test_long_runs_are_thinned_to_what_a_screen_shows(summary):
    scenario, tuners = ("chat-a100",), tuple(GOODPUT)
    short = over_time(result_curves(scenario, tuners, windows=200), "chat-a100", summary)
    long = over_time(result_curves(scenario, tuners, windows=8000), "chat-a100", summary)
    assert len(long) < 2 * len(short)


def test_only_references_or_nothing_measured_still_gives_charts():
    references = summarise(result_rows(tuners=("static-8", "static-best")))
    nothing = summarise([result_row(goodput_fraction=math.nan, **{f"refused_q{k}": math.nan for k in (1, 2, 3, 4)})])
    for summary in (references, nothing):
        for svg in (goodput_by_strategy(summary), ratio_by_scenario(summary), refusals_by_length(summary)):
            assert ElementTree.fromstring(svg).tag == "svg"
    curves = result_curves(("chat-a100",), ("static-8", "static-best"))
    assert "goodput of static-best" in texts(over_time(curves, "chat-a100", references))
