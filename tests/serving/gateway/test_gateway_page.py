"""The gateway's live page in a real browser: it shows every upstream's state and loads nothing from elsewhere."""

import re
import shutil
import subprocess

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from gateway_fleets import before_scripts, upstreams  # noqa: E402
from gateway_scripts import WHOLE, before, post, saying  # noqa: E402
from gateway_servers import wait_until  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def shown(url, profile):
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--window-size=1200,900"]
    command = [CHROMIUM, *options, "--virtual-time-budget=3000", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


def test_the_page_names_no_outside_resource_and_its_policy_forbids_them():
    script, _ = saying(WHOLE)
    with before(script) as gateway:
        page = httpx.get(f"{gateway}/gateway/", trust_env=False)
        assert "default-src 'none'" in page.headers["content-security-policy"]
        parts = re.findall(r'"(page/\w+\.(?:js|css))"', page.text)
        assert len(parts) == 3
        for part in ("", *parts, "page/elements.js", "page/format.js"):
            got = httpx.get(f"{gateway}/gateway/{part}", trust_env=False)
            assert got.status_code == 200
            assert not re.search(r"https?://|[\"'(]//", got.text.replace("http://www.w3.org/2000/svg", "")), part
        for nothing in ("page/secret.py", "page/live.js", "page/..%2Fgateway.py"):
            assert httpx.get(f"{gateway}/gateway/{nothing}", trust_env=False).status_code == 404


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_shows_which_upstreams_are_well_and_what_became_of_a_roll_out(tmp_path):
    def dead(connection, request):
        return False

    fine, _ = saying(WHOLE)
    specs = [{"version": 1}, {"version": 2}]
    with before_scripts(fine, dead, specs=specs, canary=(1, 2), health_s=0.05, poll_s=0.1) as (gateway, _, urls):
        wait_until(lambda: upstreams(gateway)[1]["suspected"])
        assert post(gateway).status_code == 200
        page = shown(f"{gateway}/gateway/", tmp_path)
    assert re.search(r'id="state"[^>]*>1 of 2 upstreams are well<', page)
    assert all(url in page for url in urls)
    assert re.search(r'class="bad">out: [^<]*broke off', page)
    assert "Roll-out of version 2 from 1: running, 10 % of the users" in page
    assert "NaN" not in page
    assert "undefined" not in page


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_shows_the_only_upstream(tmp_path):
    script, _ = saying(WHOLE)
    with before(script) as gateway:
        assert post(gateway).status_code == 200
        page = shown(f"{gateway}/gateway/", tmp_path)
    assert re.search(r'id="state"[^>]*>Every upstream is well<', page)
    assert "batch size 8" in page
    assert re.search(r'id="versions" hidden', page)
    assert "NaN" not in page
    assert "undefined" not in page
