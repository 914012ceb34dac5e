"""The live page in a real browser: it shows the server's numbers and loads nothing from anywhere else."""

import re
import shutil
import subprocess

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from running_server import TUNER, serving, tiny_runner, wait_for  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def url():
    with serving(tiny_runner(), tuner="hybrid") as (service, url, _):
        body = {"model": "tiny", "prompt": "hello", "max_tokens": 50}
        assert httpx.post(f"{url}/v1/completions", json=body).status_code == 200
        httpx.post(f"{url}{TUNER}/batch-size", json={"batch_size": 24})
        wait_for(lambda: [row["batch_size"] for row in service.history.rows()[-1:]] == [24])
        yield url


def test_the_page_is_one_file_without_outside_resources(url):
    page = httpx.get(f"{url}/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    outside = re.findall(r"""(?:src|href|url\()\s*=?\s*["'(]?(https?:|//)[^"')\s]*""", page.text)
    assert outside == []


def test_the_numbers_of_the_page_are_plain_json(url):
    live = httpx.get(f"{url}/api/live").json()
    assert live["status"]["current_batch_size"] == 24
    assert live["windows"][-1]["batch_size"] == 24
    assert "by hand" in live["decisions"][-1]["reason"]


def test_every_panel_of_the_dashboard_asks_for_metrics_that_are_told(url):
    told = set(re.findall(r"^# TYPE (\S+)", httpx.get(f"{url}/metrics").text, flags=re.M))
    for panel in httpx.get(f"{url}/grafana.json").json()["panels"]:
        for target in panel["targets"]:
            (name,) = set(re.findall(r"batchpilot:\w+", target["expr"]))
            assert name.removesuffix("_bucket") in told, panel["title"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_limits_phase_and_decisions_within_its_width(url, width, tmp_path):
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
        f"--window-size={width},900",
    ]
    finished = subprocess.run(
        [CHROMIUM, *options, "--virtual-time-budget=3000", "--dump-dom", f"{url}/"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    shown = re.sub(r"<(script|style)>.*?</\1>", "", finished.stdout, flags=re.S)
    assert 'class="good">serving<' in shown
    assert re.search(r"Batch size</h2><div[^>]*>24<", shown)
    assert "batch_size 8 → 24" in shown
    assert shown.count("<svg") == 4
    assert "NaN" not in shown
