"""The live page of a real server in a real browser: it shows the server's numbers and loads nothing from elsewhere."""

import re
import shutil
import subprocess

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from live_answers import live_answer  # noqa: E402
from running_server import TUNER, serving, tiny_runner, wait_for  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def url():
    with serving(tiny_runner(), tuner="hybrid") as (service, url, _):
        body = {"model": "tiny", "prompt": "hello", "max_tokens": 50}
        assert httpx.post(f"{url}/v1/completions", json=body).status_code == 200
        httpx.post(f"{url}{TUNER}/batch-size", json={"batch_size": 24})
        httpx.post(f"{url}{TUNER}/shadow", json={"strategy": "aimd"})
        wait_for(lambda: [row["batch_size"] for row in service.history.rows()[-1:]] == [24])
        yield url


def test_the_page_names_no_outside_resource_and_its_policy_forbids_them(url):
    page = httpx.get(f"{url}/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    parts = re.findall(r'"(?:\./)?((?:page/)?\w+\.(?:js|css))"', page.text)
    assert len(parts) == 2
    for part in ("/", *(f"/{name}" for name in parts), "/page/chart.js", "/page/verdict.js"):
        text = httpx.get(f"{url}{part}").text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|[\"'(]//", text), part


def test_a_part_of_the_page_that_does_not_exist_is_not_found(url):
    assert httpx.get(f"{url}/page/secret.py").status_code == 404
    assert httpx.get(f"{url}/page/..%2Fwatching.py").status_code == 404


def test_the_numbers_of_the_page_are_plain_json(url):
    live = httpx.get(f"{url}/api/live").json()
    assert live["status"]["current_batch_size"] == 24
    assert live["windows"][-1]["batch_size"] == 24
    assert "by hand" in live["decisions"][-1]["reason"]


def test_only_windows_that_the_page_has_not_heard_are_sent(url):
    windows = httpx.get(f"{url}/api/live").json()["windows"]
    after = httpx.get(f"{url}/api/live", params={"after": windows[-2]["end_ms"]}).json()["windows"]
    assert after[0] == windows[-1]
    assert httpx.get(f"{url}/api/live", params={"after": 1e15}).json()["windows"] == []
    assert httpx.get(f"{url}/api/live", params={"after": "later"}).status_code == 400


def test_the_answers_that_the_states_are_tested_with_are_shaped_as_the_server_s(url):
    told, shaped = httpx.get(f"{url}/api/live").json(), live_answer()
    assert set(told) == set(shaped)
    assert set(told["engine"]) == set(shaped["engine"])
    assert set(told["windows"][0]) == set(shaped["windows"][0])
    assert set(told["decisions"][0]) == set(shaped["decisions"][0])
    assert set(told["status"]) >= set(shaped["status"])
    assert set(told["status"]["shadow"]) == set(live_answer(shadow=True)["status"]["shadow"])


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_shows_limits_decisions_and_the_state(url, tmp_path):
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--window-size=1200,900"]
    finished = subprocess.run(
        [CHROMIUM, *options, "--virtual-time-budget=3000", "--dump-dom", f"{url}/"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    shown = finished.stdout
    assert re.search(r'id="state"[^>]*>(Within SLO|Idle|Too slow)<', shown)
    assert "batch size 8 → 24" in shown
    assert re.search(r">batch size</th><td[^>]*>[^<]*</td><td[^>]*>24</td>", shown)
    assert "aimd advises" in shown
    assert shown.count('<svg role="img"') == 6
    assert "NaN" not in shown
    assert "undefined" not in shown
