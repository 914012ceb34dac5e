"""Alerts by Prometheus' own tools, and a real Prometheus that scrapes a running server."""

import re
import shutil
import socket
import subprocess
import threading

import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from running_server import serving, tiny_runner, wait_for  # noqa: E402

from batchpilot.core import SLO  # noqa: E402
from batchpilot.serving.server.alerts import alert_rules, alerts  # noqa: E402

PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
with_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool; benchmarks/prometheus.sh brings it")
PROMISE = SLO(500.0, 50.0, "promised")

FIRES = {
    "BatchpilotDown": {'up{job="batchpilot", instance="a"}': "0x30"},
    "BatchpilotPromiseBroken": {
        'batchpilot:request_slo_total{met="yes", instance="a"}': "0+80x30",
        'batchpilot:request_slo_total{met="no", instance="a"}': "0+20x30",
    },
    "BatchpilotErrors": {
        'batchpilot:request_unserved_total{reason="failed", instance="a"}': "0+1x30",
        'batchpilot:request_success_total{finished_reason="stop", instance="a"}': "0+200x30",
    },
    "BatchpilotRefusing": {
        'batchpilot:request_unserved_total{reason="refused_by_guard", instance="a"}': "0+20x30",
        'batchpilot:request_success_total{finished_reason="stop", instance="a"}': "0+100x30",
    },
    "BatchpilotKvFull": {
        'batchpilot:kv_cache_usage_perc{instance="a"}': "0.99x30",
        'batchpilot:num_requests_waiting{instance="a"}': "4x30",
    },
    "BatchpilotPreempting": {'batchpilot:num_preemptions_total{instance="a"}': "0+30x30"},
    "BatchpilotStepsFail": {'batchpilot:failed_steps_total{instance="a"}': "0+1x30"},
    "BatchpilotMemoryGrows": {'process_resident_memory_bytes{instance="a"}': "1000+20x180"},
    "BatchpilotTunerErrors": {'batchpilot:tuner_errors_total{instance="a"}': "0+1x30"},
    "BatchpilotTtftLate": {
        'batchpilot:time_to_first_token_seconds_bucket{le="0.5", instance="a"}': "0+90x30",
        'batchpilot:time_to_first_token_seconds_bucket{le="1.0", instance="a"}': "0+100x30",
        'batchpilot:time_to_first_token_seconds_bucket{le="+Inf", instance="a"}': "0+100x30",
    },
    "BatchpilotTpotLate": {
        'batchpilot:request_time_per_output_token_seconds_bucket{le="0.05", instance="a"}': "0+90x30",
        'batchpilot:request_time_per_output_token_seconds_bucket{le="0.1", instance="a"}': "0+100x30",
        'batchpilot:request_time_per_output_token_seconds_bucket{le="+Inf", instance="a"}': "0+100x30",
    },
}
"""Series, one sample a minute, under which each alert must fire."""

QUIET = {
    'up{job="batchpilot", instance="a"}': "1x180",
    'batchpilot:request_slo_total{met="yes", instance="a"}': "0+99x180",
    'batchpilot:request_slo_total{met="no", instance="a"}': "0+1x180",
    'batchpilot:request_success_total{finished_reason="stop", instance="a"}': "0+2000x180",
    'batchpilot:request_unserved_total{reason="failed", instance="a"}': "0+1x180",
    'batchpilot:request_unserved_total{reason="refused_by_guard", instance="a"}': "0+20x180",
    'batchpilot:kv_cache_usage_perc{instance="a"}': "0.99x180",
    'batchpilot:num_requests_waiting{instance="a"}': "0x180",
    'batchpilot:num_preemptions_total{instance="a"}': "0+2x180",
    'batchpilot:failed_steps_total{instance="a"}': "3x180",
    'process_resident_memory_bytes{instance="a"}': "1000000+1x180",
    'batchpilot:tuner_errors_total{instance="a"}': "1x180",
    'batchpilot:time_to_first_token_seconds_bucket{le="0.5", instance="a"}': "0+99x180",
    'batchpilot:time_to_first_token_seconds_bucket{le="+Inf", instance="a"}': "0+100x180",
}


def test_every_alert_asks_only_for_what_the_server_tells():
    with serving(tiny_runner(), tuner="guarded-default") as (_, url, _server):
        body = {"model": "tiny", "prompt": "hello", "max_tokens": 4, "ignore_eos": True}
        assert httpx.post(f"{url}/v1/completions", json=body).status_code == 200
        told, rules = httpx.get(f"{url}/metrics").text, httpx.get(f"{url}/alerts.yml").text
    asked = {name for one in alerts(PROMISE) for name in re.findall(r"batchpilot:\w+|process_\w+", one.condition)}
    assert len(asked) >= 10
    assert [name for name in asked if not re.search(rf"^{name}[{{ ]", told, re.M)] == []
    assert {rule["alert"] for rule in yaml.safe_load(rules)["groups"][0]["rules"]} == set(FIRES)


def test_a_promise_that_is_none_has_no_alert():
    names = {one.name for one in alerts(SLO(float("inf"), 50.0))}
    assert "BatchpilotTtftLate" not in names
    assert "BatchpilotTpotLate" in names


@with_promtool
def test_the_rules_are_right_by_promtool(tmp_path):
    (tmp_path / "alerts.yml").write_text(alert_rules(PROMISE))
    checked = subprocess.run([PROMTOOL, "check", "rules", "alerts.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr + checked.stdout
    assert f"{len(FIRES)} rules found" in checked.stdout


@with_promtool
def test_every_alert_fires_when_it_should_and_stays_quiet_else(tmp_path):
    rules = yaml.safe_load(alert_rules(PROMISE))
    for rule in rules["groups"][0]["rules"]:
        del rule["annotations"]  # they tell the value, which is not what is tested
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    labels = {one.name: {"severity": one.severity, "instance": "a"} for one in alerts(PROMISE)}
    labels["BatchpilotDown"]["job"] = "batchpilot"

    def run(fires):
        cases = []
        for name in FIRES:
            series = FIRES[name] if fires else QUIET
            at = "170m" if "180" in str(series) else "25m"
            expected = [{"exp_labels": labels[name]}] if fires else []
            inputs = [{"series": told, "values": values} for told, values in series.items()]
            tested = [{"eval_time": at, "alertname": name, "exp_alerts": expected}]
            cases.append({"interval": "1m", "input_series": inputs, "alert_rule_test": tested})
        (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["alerts.yml"], "tests": cases}))
        return subprocess.run([PROMTOOL, "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True)

    for fires in (True, False):
        tested = run(fires)
        assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus; benchmarks/prometheus.sh brings it")
def test_a_real_prometheus_scrapes_a_running_server_and_knows_its_alerts(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving(tiny_runner(), tuner="guarded-default") as (_, url, _server):
        (tmp_path / "alerts.yml").write_text(httpx.get(f"{url}/alerts.yml").text)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [
                {"job_name": "batchpilot", "static_configs": [{"targets": [url.removeprefix("http://")]}]}
            ],
        }
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [PROMETHEUS, "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{port}"]
        with subprocess.Popen(
            [*command, "--storage.tsdb.path=data"], cwd=tmp_path, stderr=subprocess.DEVNULL
        ) as running:
            try:
                api = f"http://127.0.0.1:{port}/api/v1"
                body = {"model": "tiny", "prompt": "hello", "max_tokens": 4, "ignore_eos": True}
                threading.Thread(target=lambda: httpx.post(f"{url}/v1/completions", json=body)).start()
                wait_for(lambda: _asked(api, "batchpilot:generation_tokens_total") == ["4"], 60.0)
                assert _asked(api, 'up{job="batchpilot"}') == ["1"]
                groups = httpx.get(f"{api}/rules").json()["data"]["groups"]
                assert {rule["name"]: rule["health"] for rule in groups[0]["rules"]}.keys() == FIRES.keys()
                wait_for(
                    lambda: all(
                        rule["health"] == "ok"
                        for rule in httpx.get(f"{api}/rules").json()["data"]["groups"][0]["rules"]
                    ),
                    60.0,
                )
            finally:
                running.terminate()


def _asked(api, query):
    try:
        answer = httpx.get(f"{api}/query", params={"query": query}).json()
    except httpx.TransportError:
        return []
    return [sample["value"][1] for sample in answer["data"]["result"]]
