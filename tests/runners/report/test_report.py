"""The report as a browser reads it: whole, self-contained, escaped, and honest about what is missing."""

import math
import re
from html.parser import HTMLParser

import pytest
from synthetic_results import SCENARIOS, result_curves, result_row, result_rows

from batchpilot.runners.report.summary import summarise
from batchpilot.runners.report.writing import write_report

VOID = {"meta", "br", "img", "input", "link", "hr"}
FETCHES = {"src", "srcset", "href", "xlink:href", "data", "action", "poster", "background", "formaction", "ping"}
ORIGIN = {"command": "batchpilot leaderboard --suite quick", "seeds": [0, 1, 2], "config_hash": "0123456789ab"}


class Page(HTMLParser):
    """What a page holds: tags in order, attributes, text, and whether every element was closed in turn."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.open, self.words, self.balanced = [], [], [], [], True
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        self.balanced &= bool(self.open) and self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def write(path, rows, curves=None, **changes):
    given = {"title": "Leaderboard", "provenance": ORIGIN, "notes": ["Latency is estimated."]} | changes
    written = write_report(path, rows=rows, summary=summarise(rows), curves=curves or {}, **given)
    return Page(written.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write(tmp_path_factory.mktemp("report") / "report.html", result_rows(), result_curves())


def test_every_element_is_closed_and_every_id_is_its_own(report):
    assert report.balanced
    assert report.open == []
    ids = [value for name, value in report.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 0


def test_nothing_is_fetched_and_nothing_is_run(report):
    assert not {"script", "link", "iframe", "object", "embed", "img", "base", "form"} & set(report.tags)
    assert all(value.startswith("#") for name, value in report.attributes if name in FETCHES)
    assert not [name for name, _ in report.attributes if name.startswith("on")]
    css = [value for name, value in report.attributes if name in ("style", "clip-path")] + report.words
    assert all(re.match(r"url\(#", found) for text in css for found in re.findall(r"url\(.", text))
    assert "@import" not in report.text
    assert "http" not in report.text


def test_a_browser_is_told_to_load_nothing(report):
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in report.attributes


def test_every_scenario_folds_and_every_chart_is_there(report):
    assert report.tags.count("details") == len(SCENARIOS)
    assert report.tags.count("svg") == 4 + len(SCENARIOS)


def test_the_page_follows_the_readers_dark_or_light_and_their_narrow_screen(report):
    assert "prefers-color-scheme: dark" in report.text
    assert ("name", "viewport") in report.attributes
    assert report.tags.count("table") == sum(value == "scroll" for name, value in report.attributes if name == "class")


def test_provenance_notes_and_references_are_stated(report):
    for said in ("batchpilot leaderboard --suite quick", "0, 1, 2", "0123456789ab", "Latency is estimated."):
        assert said in report.text
    for reference in ("static-8:", "static-default:", "static-best:"):
        assert reference in report.text


def test_the_verdict_counts_losses_beside_wins(report):
    assert "guarded-default (shortest prompt first) wins: " in report.text
    assert "better in 3, worse in 1 of 4 scenarios" in report.text


def test_few_seeds_are_said_to_give_intervals_that_are_too_narrow(report):
    assert "3 seeds" in report.text
    assert "narrower than the truth" in report.text


def test_one_seed_is_said_to_give_no_intervals(tmp_path):
    page = write(tmp_path / "report.html", result_rows(seeds=1))
    assert "There is one seed, and so there are no intervals" in page.text
    assert "[-]" in page.text
    assert "\u2013" not in page.text


HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


def test_names_titles_notes_and_provenance_stay_text(tmp_path):
    rows = [
        result_row(HOSTILE, tuner, seed, family=HOSTILE, device=HOSTILE, model=HOSTILE, refused_q1=0.1)
        for tuner in (HOSTILE, "static-best")
        for seed in range(2)
    ]
    curves = result_curves((HOSTILE,), (HOSTILE, "static-best"))
    page = write(
        tmp_path / "report.html", rows, curves, title=HOSTILE, notes=[HOSTILE], provenance={HOSTILE: {HOSTILE: HOSTILE}}
    )
    assert page.balanced
    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("alert(1)") >= 10


def test_what_was_never_measured_is_a_dash_and_never_nan(tmp_path):
    missing = dict.fromkeys(("ttft_p95_ms", "ttft_p99_ms", "convergence_s", "size_stability"), math.nan)
    refused = {f"refused_q{quarter}": math.nan for quarter in (1, 2, 3, 4)}
    rows = [
        result_row(tuner=tuner, seed=seed, **missing, **refused)
        for tuner in ("dynamic", "static-8", "static-best")
        for seed in range(2)
    ]
    page = write(tmp_path / "report.html", rows)
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)
    assert "never" in page.text


def test_no_refusals_are_said_in_words(tmp_path):
    page = write(tmp_path / "report.html", [result_row(), result_row(tuner="static-best")])
    assert "No strategy refused a request." in page.text


def test_only_references_give_a_report_without_a_verdict(tmp_path):
    page = write(tmp_path / "report.html", result_rows(tuners=("static-8", "static-best")))
    assert "no strategy to judge" in page.text


def test_an_old_report_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "results" / "report.html"
    write(path, result_rows(seeds=1))
    write(path, result_rows(seeds=2), title="Later")
    assert "Later" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_nothing_to_report_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no result rows"):
        write(tmp_path / "report.html", [])
