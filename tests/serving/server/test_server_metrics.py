"""What the reference server tells Prometheus: vLLM's names where they mean the same, by Prometheus' own rules."""

import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")
parser = pytest.importorskip("prometheus_client.parser")

from running_server import TUNER, serving, tiny_runner, wait_for  # noqa: E402

from batchpilot.core import Limits, WindowMetrics  # noqa: E402
from batchpilot.engines.torch.telemetry import Reading, Telemetry  # noqa: E402
from batchpilot.serving.server.metrics import ServerMetrics  # noqa: E402

PREFIX = "batchpilot:"
PROMTOOL = shutil.which("promtool")

AS_IN_VLLM = {
    "num_requests_running": "gauge",
    "num_requests_waiting": "gauge",
    "kv_cache_usage_perc": "gauge",
    "prompt_tokens": "counter",
    "generation_tokens": "counter",
    "request_success": "counter",
    "time_to_first_token_seconds": "histogram",
    "request_time_per_output_token_seconds": "histogram",
    "e2e_request_latency_seconds": "histogram",
    "request_prompt_tokens": "histogram",
    "request_generation_tokens": "histogram",
    "num_preemptions": "counter",
}
"""Names and types of vLLM's V1 engine that are told here too; in the text a counter's name ends in _total."""

EDGES_OF_VLLM = {
    "time_to_first_token_seconds": "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 "
    "40.0 80.0 160.0 640.0 2560.0",
    "request_time_per_output_token_seconds": "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1.0 2.5 5.0 7.5 10.0 "
    "20.0 40.0 80.0",
    "e2e_request_latency_seconds": "0.3 0.5 0.8 1.0 1.5 2.0 2.5 5.0 10.0 15.0 20.0 30.0 40.0 50.0 60.0 120.0 240.0 "
    "480.0 960.0 1920.0 7680.0",
}


@pytest.fixture(scope="module")
def server():
    """A server that served two requests, refused one and was left by the client of another."""
    with serving(tiny_runner(), tuner="guarded-default") as (service, url, _):
        body = {"model": "tiny", "prompt": "hello", "max_tokens": 20, "ignore_eos": True}
        before = httpx.get(f"{url}/metrics").text
        for _ in range(2):
            assert httpx.post(f"{url}/v1/completions", json=body).status_code == 200
        assert httpx.post(f"{url}/v1/completions", json=body | {"ttft_ms": 0.001}).status_code == 503
        with httpx.stream("POST", f"{url}/v1/completions", json=body | {"max_tokens": 2000, "stream": True}) as answer:
            next(answer.iter_bytes())
        httpx.post(f"{url}{TUNER}/strategy", json={"strategy": "static-32"})
        wait_for(lambda: service.engine.open == 0 and service.session.limits().batch_size == 32)
        yield before, httpx.get(f"{url}/metrics").text, httpx.get(f"{url}/grafana.json").json()


@pytest.fixture(scope="module")
def families(server):
    """The metrics by name without the prefix, a counter's without _total."""
    told = parser.text_string_to_metric_families(server[1])
    return {family.name.removeprefix(PREFIX): family for family in told}


def value(family, suffix="", **labels):
    """The one sample of a family with these labels."""
    (found,) = [
        s.value for s in family.samples if s.name == family.name + suffix and s.labels.items() >= labels.items()
    ]
    return found


def test_what_vllm_tells_too_has_its_name_and_type(families):
    assert {name: families[name].type for name in AS_IN_VLLM} == AS_IN_VLLM


@pytest.mark.parametrize("name", EDGES_OF_VLLM)
def test_buckets_have_vllm_s_edges_so_that_quantiles_compare(families, name):
    edges = {float(s.labels["le"]) for s in families[name].samples if s.name.endswith("_bucket")}
    assert edges >= {float(edge) for edge in EDGES_OF_VLLM[name].split()}


def test_buckets_only_grow_and_the_last_holds_everything(families):
    for family in families.values():
        if family.type == "histogram":
            counts = [s.value for s in family.samples if s.name.endswith("_bucket")]
            assert counts == sorted(counts)
            assert counts[-1] == value(family, "_count")


def test_every_request_is_counted_once_by_its_end(families):
    assert value(families["request_success"], "_total", finished_reason="length") == 2
    assert value(families["request_unserved"], "_total", reason="refused_by_guard") == 1
    assert value(families["request_unserved"], "_total", reason="cancelled") == 1
    assert value(families["e2e_request_latency_seconds"], "_count") == 2
    assert value(families["time_to_first_token_seconds"], "_count") == 3
    assert value(families["request_prompt_tokens"], "_sum") == 2 * len("hello")
    assert value(families["request_generation_tokens"], "_sum") == 40
    judged = families["request_slo"]
    assert value(judged, "_total", met="yes") + value(judged, "_total", met="no") == 3


def test_tokens_are_counted_as_they_come_not_when_their_request_ends():
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 2000, "stream": True, "ignore_eos": True}
    with serving(tiny_runner()) as (_, url, _), httpx.stream("POST", f"{url}/v1/completions", json=body) as answer:
        next(answer.iter_bytes())
        told = {
            family.name.removeprefix(PREFIX): family
            for family in parser.text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
        }
        assert value(told["generation_tokens"], "_total") >= 1
        assert value(told["prompt_tokens"], "_total") == len("hello")
        assert value(told["time_to_first_token_seconds"], "_count") == 1
        assert value(told["e2e_request_latency_seconds"], "_count") == 0


def test_preemptions_are_those_of_the_windows():
    metrics = ServerMetrics()
    for preemptions in (2, 0, 3):
        metrics.window(WindowMetrics(limits=Limits(8), preemptions=preemptions))
    assert "batchpilot:num_preemptions_total 5.0" in metrics.text().decode()


def test_limits_and_phase_are_those_in_force(families):
    assert value(families["tuner_limit"], limit="batch_size") == 32
    assert value(families["tuner_phase"], tuner="static-32") == 1
    assert value(families["tuner_limit_changes"], "_total") >= 1


def test_counters_are_told_as_zero_before_they_first_count(server):
    for sample in (
        'request_success_total{finished_reason="stop"}',
        'request_unserved_total{reason="refused_on_arrival"}',
        'request_slo_total{met="no"}',
        "failed_steps_total",
    ):
        assert f"{PREFIX}{sample} 0.0\n" in server[0]


def test_names_keep_prometheus_rules(families):
    told = [family for family in families.values() if family.name.startswith(PREFIX)]
    ours = [family for family in told if not family.name.endswith("_created")]
    assert len(ours) >= 20
    for family in ours:
        name = family.name.removeprefix(PREFIX)
        assert family.documentation.endswith("."), name
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert not re.search(r"_(ms|milliseconds|mb|counter|gauge|histogram|info|count|sum|bucket|total)$", name)
        counted = {s.name for s in family.samples}
        if family.type == "counter":
            assert counted == {f"{family.name}_total"}
        elif family.type == "gauge":
            assert counted == {family.name}


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool on this machine")
def test_promtool_finds_nothing_but_vllm_s_colon(server):
    said = subprocess.run([PROMTOOL, "check", "metrics"], input=server[1], capture_output=True, text=True, check=False)
    complaints = [line for line in (said.stdout + said.stderr).splitlines() if "should not contain ':'" not in line]
    assert complaints == []


def test_every_panel_asks_for_samples_and_labels_that_are_told(server, families):
    told = {}
    for family in families.values():
        for sample in family.samples:
            told.setdefault(sample.name, set()).update(sample.labels)
    for panel in server[2]["panels"]:
        for target in panel["targets"]:
            names = re.findall(r"batchpilot:\w+", target["expr"])
            labels = re.findall(r"\{(\w+)=", target["expr"]) + re.findall(r"by \((\w+)\)", target["expr"])
            labels += re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            assert names, panel["title"]
            for name in names:
                assert name in told, panel["title"]
                assert set(labels) <= told[name], (panel["title"], name)


def test_rate_and_use_of_the_device_are_told_of_the_last_window():
    with serving(tiny_runner(), tuner="static-32", window_ms=200.0) as (service, url, _):
        body = {"model": "tiny", "prompt": "hello", "max_tokens": 40, "ignore_eos": True}
        seen = []

        def finished():
            httpx.post(f"{url}/v1/completions", json=body)
            page = {family.name: family for family in parser.text_string_to_metric_families(_page(url))}
            if f"{PREFIX}requests_per_second" in page:
                seen.append([value(page[f"{PREFIX}{name}"]) for name in ("requests_per_second", "device_utilisation")])
            return any(rate > 0 and use > 0 for rate, use in seen)

        wait_for(finished, 60.0)
        assert all(0 <= use <= 1 and rate * 0.2 <= 1000 for rate, use in seen)
        latest = service.session.latest
        assert (f"{PREFIX}device_memory_used_bytes" in _page(url)) == (latest.memory_total_mb > 0)


def test_what_answers_took_is_what_the_next_one_is_expected_to_take():
    with serving(tiny_runner(), tuner="static-32") as (service, url, _):
        body = {"model": "tiny", "prompt": "hello", "max_tokens": 4, "ignore_eos": True}
        for _ in range(10):
            httpx.post(f"{url}/v1/completions", json=body)
        with httpx.stream("POST", f"{url}/v1/completions", json=body | {"max_tokens": 1000, "stream": True}) as answer:
            next(answer.iter_bytes())
            expected = service.engine._engine.state.requests["estimated_output"]
            assert 4.0 in expected
            assert 1000.0 not in expected


def test_scores_of_answers_are_counted_and_nonsense_is_refused():
    with serving(tiny_runner()) as (_, url, _server):
        for score in (0.2, 1.0):
            answer = httpx.post(f"{url}/v1/feedback", json={"score": score, "id": "cmpl-1"})
            assert (answer.status_code, answer.json()["score"]) == (200, score)
        for wrong in ({"score": 1.1}, {"score": "NaN"}, {}, {"score": 1, "more": 1}):
            refused = httpx.post(f"{url}/v1/feedback", json=wrong)
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] in ("score", "more")
        page = {family.name: family for family in parser.text_string_to_metric_families(_page(url))}
        quality = page[f"{PREFIX}quality_score"]
        assert value(quality, "_count") == 2
        assert value(quality, "_sum") == pytest.approx(1.2)
        assert value(quality, "_bucket", le="0.2") == 1


def test_what_the_device_said_last_is_told_and_nothing_else():
    telemetry = Telemetry(SimpleNamespace(read=lambda: Reading(allocated_mb=2.0, reserved_mb=3.0)), every=1)
    with serving(tiny_runner()) as (service, _, _server):
        metrics = ServerMetrics()
        metrics.watch(service.session, service.control, lambda: service.engine.gauges, lambda: telemetry.latest)
        before = metrics.text().decode()
        telemetry.after_step(0.0)
        told = {family.name: family for family in parser.text_string_to_metric_families(metrics.text().decode())}
    assert "device_memory_allocated" not in before
    assert value(told[f"{PREFIX}device_memory_allocated_bytes"]) == 2 * 2**20
    assert value(told[f"{PREFIX}device_memory_reserved_bytes"]) == 3 * 2**20
    assert f"{PREFIX}device_power_watts" not in told


def _page(url):
    return httpx.get(f"{url}/metrics").text
