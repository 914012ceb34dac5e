"""What the live page says in each state that matters, in a real browser; the server's answers are made up."""

import re
import shutil
import subprocess
import time

import pytest

pytest.importorskip("fastapi")

from live_answers import live_answer, quiet, trial, window
from page_stub import PAGE, SILENCE, State, answering

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

SECONDS = [1000.0 * k for k in range(1, 31)]
LONG = "Qwen3-" + "A" * 90
HUGE = {"running": 10**9, "waiting": 10**9, "queued_tokens": 10**15}


def restarted():
    """The answers of a new server, whose clock began anew."""
    return live_answer([window(3000.0, limits=window(0.0).limits.replace(batch_size=77))], started=1_800_000_000)


def huge():
    long_limits = window(0.0).limits.replace(batch_size=2**31, token_budget=2**40, max_queued_tokens=2**50)
    answer = live_answer(
        [window(at, limits=long_limits, ttft_ms_p95=1e9, tpot_ms_p95=1e7, running=10**9) for at in SECONDS],
        engine=HUGE,
        status={
            "limits": long_limits.to_dict(),
            "tuner_errors": 10**7,
            "tuner_last_error": "E" * 300,
            "reason": "r" * 300,
        },
        trial=trial(candidate="c" * 120),
        shadow=True,
    )
    return answer | {"model": LONG}


NEXT = live_answer([window(31_000.0)])
"""What a server answers a second later."""

STATES = {
    "kept": State([live_answer()]),
    "recovered": State([live_answer([window(at, slo_attainment=0.0 if at < 15_000.0 else 1.0) for at in SECONDS])]),
    "late-and-overloaded": State(
        [live_answer([window(at, refused_by_guard=10, slo_attainment=15 / 30) for at in SECONDS])]
    ),
    "late": State([live_answer([window(at, slo_attainment=0.6, ttft_ms_p95=900.0) for at in SECONDS])]),
    "overloaded": State(
        [live_answer([window(at, refused_by_guard=8, refused_on_arrival=2, slo_attainment=20 / 30) for at in SECONDS])]
    ),
    "failing": State([live_answer([window(at, failed_requests=5, failures=2, slo_attainment=0.8) for at in SECONDS])]),
    "idle": State(
        [live_answer([quiet(at) for at in SECONDS], engine={"running": 0, "kv_used_fraction": 0.0}, decisions=False)]
    ),
    "begun": State([live_answer([], engine={"running": 0}, decisions=False)]),
    "working": State([live_answer([quiet(at) for at in SECONDS])]),
    "stalled": State([live_answer(engine={"stalled_s": 17.0, "waiting": 5})]),
    "draining": State([live_answer(draining=True)]),
    "dead": State([live_answer(trouble="the engine has ended: KeyError: 'a defect'")]),
    "raising": State([live_answer(status={"tuner_errors": 3, "tuner_last_error": "ValueError: NaN"})]),
    "trial": State([live_answer(trial=trial(), shadow=True)]),
    "rolled-back": State(
        [live_answer(trial=trial(candidate=None, verdict="rolled back", reason="SLO attainment 0.9"))]
    ),
    "unreachable": State([SILENCE]),
    "silent": State([live_answer(), SILENCE]),
    "refusing": State([live_answer(), 503]),
    "babbling": State([live_answer(), "no answer at all"]),
    "back": State([live_answer(), SILENCE, restarted()]),
    "continuing": State([live_answer(), NEXT, NEXT | {"windows": []}]),
    "keyboard": State(
        [live_answer()],
        script="""setInterval(() => { const [figure] = document.querySelectorAll("figure"); figure?.focus();
        if (figure && !figure.innerText.includes("ago"))
          figure.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true })); }, 300);""",
    ),
    "markup": State([live_answer(status={"reason": "<img src=x onerror=alert(1)>", "tuner": "<b>bold</b>"})]),
    "kept-phone": State([live_answer(trial=trial(), shadow=True)], width=390),
    "huge": State([huge()]),
    "huge-phone": State([huge()], width=390),
    "huge-narrow": State([huge()], width=320),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The states, each open as a page in one browser."""
    profile = tmp_path_factory.mktemp("browser")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--remote-debugging-port=0"]
    with answering(STATES) as url:
        browser = subprocess.Popen(
            [CHROMIUM, *options, "--window-size=1300,900", url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield STATES
        finally:
            browser.terminate()
            browser.wait(20.0)


def wait_until(state, *texts):
    """Wait until a page shows texts, and fail with what it shows if it never does."""
    end = time.monotonic() + 60.0
    while not all(state.shows(text) for text in texts):
        assert time.monotonic() < end, f"{texts} never came; the page shows: {state.report}"
        time.sleep(0.05)


@needs_browser
@pytest.mark.parametrize(
    ("name", "tone", "texts"),
    [
        ("kept", "good", ["Within SLO", "100 % of 600 requests in the last minute met their SLO", "600 within SLO"]),
        ("late", "bad", ["Too slow", "40 % of those served were late", "240 late, 40 %", "above the promised 400 ms"]),
        ("overloaded", "warn", ["Overloaded", "33.3 % refused", "300 refused, 33.3 % (240 by the TTFT guard)"]),
        ("late-and-overloaded", "bad", ["Overloaded", "33.3 % refused; 25 % of those served were late; 50 % of 900"]),
        ("recovered", "warn", ["Within SLO again", "46.7 % of those served were late, 0 % in the last 10 s"]),
        ("failing", "bad", ["Requests fail", "150 failed, 20 %", "60 steps of the engine failed in the last minute"]),
        ("idle", "", ["Idle", "The limits have not been changed yet"]),
        ("begun", "", ["Idle", "promised 2,000 ms", "nothing promised", "nothing measured yet"]),
        ("working", "", ["Working", "No request has ended in the last minute; 7 run or wait."]),
        ("stalled", "warn", ["No step for 17 s", "12 requests are held up"]),
        ("draining", "warn", ["Shutting down", "7 still run or wait"]),
        ("dead", "bad", ["Not serving", "the engine has ended: KeyError: 'a defect'"]),
        ("raising", "good", ["The tuner raised 3 times, last ValueError: NaN; the last good limits stay."]),
        ("trial", "good", ["Trial: running", "policy-limits decides 10 % of the windows", "98.5 %", "1,311"]),
        ("trial", "good", ["Shadow: aimd advises", "in 25 % of 40 windows", "its batch sizes"]),
        ("rolled-back", "good", ["Trial: rolled back", "SLO attainment 0.9"]),
        ("unreachable", "bad", ["No answer", "Asking again"]),
        ("silent", "bad", ["No answer", "What is below is old", "600 within SLO"]),
        ("refusing", "bad", ["No answer", "status 503"]),
        ("babbling", "bad", ["No answer", "what it answered are not its numbers"]),
    ],
)
def test_the_page_says_how_it_is(pages, name, tone, texts):
    wait_until(pages[name], *texts)
    assert pages[name].report["tone"] == tone
    assert pages[name].report["stale"] == ("No answer" in texts)


@needs_browser
def test_a_tab_in_the_background_says_how_it_is_too(pages):
    wait_until(pages["overloaded"], "Overloaded")
    assert pages["overloaded"].report["title"] == "Overloaded · tiny-llama · batchpilot"


@needs_browser
def test_limits_are_told_with_units_and_for_how_long(pages):
    wait_until(pages["kept"], "step target")
    shown = re.sub(r"\s+", " ", pages["kept"].report["text"])
    assert "batch size for 12 s 32" in shown
    assert "step target for 12 s 14.14 ms" in shown
    assert "step_target_ms=11.4 " in shown
    assert "ttft guard 1 \N{MULTIPLICATION SIGN} target" in shown
    assert re.search(r"Off: [a-z ,]*max wait", shown)
    assert "batch size 16 → 32, step target 20 ms → 14.14 ms" in shown


@needs_browser
def test_charts_tell_their_last_values_and_the_promise_to_who_cannot_see_them(pages):
    wait_until(pages["kept"], "Within SLO")
    charts = pages["kept"].report["charts"]
    assert charts[0] == "Time to first token: p95 312 ms, p50 120 ms, promised 400 ms"
    assert len(charts) == 6


@needs_browser
def test_the_page_finds_a_server_that_was_started_again_and_forgets_the_old_one_s_windows(pages):
    wait_until(pages["back"], "77")
    report = pages["back"].report
    assert not report["stale"]
    assert "20 within SLO" in report["text"]
    assert pages["back"].queries[2:4] == ["after=30000", ""]


@needs_browser
def test_only_new_windows_are_asked_for_and_added(pages):
    wait_until(pages["continuing"], "620 within SLO")
    assert pages["continuing"].queries[:2] == ["", "after=30000"]


@needs_browser
def test_arrow_keys_move_the_cursor_of_a_chart(pages):
    wait_until(pages["keyboard"], "s ago\n")
    assert re.search(r"promised\s+400 ms\s+\d+ s ago", pages["keyboard"].report["text"])


@needs_browser
def test_what_a_tuner_says_is_text_and_never_markup(pages):
    wait_until(pages["markup"], "<img src=x onerror=alert(1)>", "<b>bold</b>")
    assert pages["markup"].report["error"] is None


@needs_browser
@pytest.mark.parametrize("name", STATES)
def test_no_page_is_wider_than_its_window_or_makes_a_mistake(pages, name):
    wait_until(pages[name], "batchpilot")
    state = pages[name]
    end = time.monotonic() + 60.0
    while state.polls < 3 and time.monotonic() < end:
        time.sleep(0.05)
    assert state.report["width"] == state.width
    assert state.report["overflow"] == 0
    assert state.report["error"] is None
    for nonsense in ("NaN", "undefined", "null", "Infinity"):
        assert nonsense not in state.report["text"].replace("ValueError: NaN", "")
        assert nonsense not in state.report["paths"]


def palettes():
    """The colours of the light and the dark page by name."""
    style = PAGE.joinpath("style.css").read_text("utf-8")
    return [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)]


def contrast(one, other):
    """Contrast ratio of two colours. Source: WCAG 2.2, relative luminance."""
    lights = []
    for colour in (one, other):
        channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize("colours", palettes(), ids=["light", "dark"])
@pytest.mark.parametrize("name", ["ink", "dim", "first", "second", "good", "warn", "bad"])
def test_text_and_lines_stand_out_from_what_is_behind_them(colours, name):
    for behind in ("card", "page"):
        assert contrast(colours[name], colours[behind]) >= 4.5


def test_nothing_on_the_page_moves_by_itself():
    assert not re.search(r"animation|transition|@keyframes", PAGE.joinpath("style.css").read_text("utf-8"))


def test_the_page_stays_small():
    assert sum(len(part.read_bytes()) for part in PAGE.iterdir()) < 40_000
