"""Pages of every server that is known become the same evidence."""

import numpy as np
import pytest

from batchpilot.core import SLO
from batchpilot.diagnosis.rules import BATCH, KV, NOTHING, QUEUE, diagnose
from batchpilot.serving.scraping import Page, evidence_from

prometheus_client = pytest.importorskip("prometheus_client")


def read(*texts, limits=None):
    return evidence_from([Page.parse(text, 10.0 * k) for k, text in enumerate(texts)], SLO(), None, limits or {})


def vllm(done, waiting, kv, ttft_s, *, preempted=0, running=16):
    registry = prometheus_client.CollectorRegistry()
    labels = {"model_name": "m", "engine": "0"}
    ttft = prometheus_client.Histogram(
        "vllm:time_to_first_token_seconds", "", labels, buckets=(0.1, 0.5, 1, 2.5, 5, 10, 20), registry=registry
    ).labels(**labels)
    steps = prometheus_client.Histogram(
        "vllm:iteration_tokens_total", "", labels, buckets=(8, 64, 512), registry=registry
    ).labels(**labels)
    ended = prometheus_client.Counter("vllm:request_success", "", [*labels, "finished_reason"], registry=registry)
    preempts = prometheus_client.Counter("vllm:num_preemptions", "", labels, registry=registry).labels(**labels)
    for _ in range(done):
        ttft.observe(ttft_s)
        ended.labels(**labels, finished_reason="stop").inc()
        for _ in range(10):
            steps.observe(20)
    preempts.inc(preempted)
    for name, value in (
        ("num_requests_running", running),
        ("num_requests_waiting", waiting),
        ("kv_cache_usage_perc", kv),
    ):
        prometheus_client.Gauge(f"vllm:{name}", "", labels, registry=registry).labels(**labels).set(value)
    return prometheus_client.generate_latest(registry).decode()


def test_a_vllm_that_keeps_its_promise_is_bound_by_nothing():
    told = read(vllm(10, 0, 0.1, 0.05), vllm(110, 0, 0.1, 0.05))
    assert told.source == "vLLM"
    assert told.total("ended") == 100
    assert told.mean("tokens_per_step") == 20
    assert told.mean("step_ms") == pytest.approx(10.0)
    assert diagnose(told).binds == NOTHING


def test_a_vllm_that_queues_is_bound_by_its_batch_or_its_cache():
    slow = read(vllm(10, 40, 0.3, 8.0), vllm(110, 60, 0.3, 8.0), limits={"batch_size": 16.0})
    verdict = diagnose(slow)
    assert (verdict.binds, verdict.evidence["waiting"]) == (BATCH, 50.0)
    assert "from 16 to 32" in verdict.change
    assert diagnose(read(vllm(10, 40, 0.97, 8.0), vllm(110, 60, 0.99, 8.0, preempted=30))).binds == KV


def test_sglang_counts_what_was_aborted_and_retracted():
    page = """sglang:num_running_reqs{tp_rank="0"} 8
sglang:num_queue_reqs{tp_rank="0"} 30
sglang:token_usage{tp_rank="0"} 0.96
sglang:num_requests_total{tp_rank="0"} %d
sglang:num_aborted_requests_total{tp_rank="0"} 5
sglang:num_retracted_requests_total{tp_rank="0"} %d
sglang:time_to_first_token_seconds_bucket{le="1.0"} 0
sglang:time_to_first_token_seconds_bucket{le="5.0"} 100
sglang:time_to_first_token_seconds_bucket{le="+Inf"} 100
"""
    told = read(page % (100, 0), page % (300, 50))
    assert told.total("ended") == 200
    assert told.total("preempted") == 50
    assert diagnose(told).binds == KV


def test_llama_cpp_tells_steps_and_deferred_requests():
    page = """llamacpp:requests_processing 4
llamacpp:requests_deferred %d
llamacpp:n_decode_total %d
llamacpp:prompt_tokens_total %d
llamacpp:tokens_predicted_total %d
llamacpp:prompt_seconds_total 0
llamacpp:tokens_predicted_seconds_total %d
"""
    told = read(page % (6, 0, 0, 0, 0), page % (8, 100, 1000, 400, 5), limits={"batch_size": 4.0})
    assert told.mean("tokens_per_step") == 14
    assert told.mean("step_ms") == 50
    assert told.mean("busy") == 0.5
    assert diagnose(told).binds == BATCH


def test_our_gateway_tells_its_summaries_limits_and_refusals():
    page = """batchpilot_gateway:num_requests_running 4
batchpilot_gateway:num_requests_waiting 0
batchpilot_gateway:time_to_first_token_seconds{quantile="0.5"} 0.1
batchpilot_gateway:time_to_first_token_seconds{quantile="0.95"} 0.3
batchpilot_gateway:limit{limit="batch_size"} 64
batchpilot_gateway:limit{limit="max_queued_tokens"} 500
batchpilot_gateway:requests_total{outcome="finished"} %d
batchpilot_gateway:requests_total{outcome="refused_on_arrival"} %d
"""
    told = read(page % (0, 0), page % (80, 20))
    assert told.refused_share == pytest.approx(0.2)
    verdict = diagnose(told)
    assert verdict.binds == QUEUE
    assert "from 500 to 1,000" in verdict.change


def test_quantiles_of_a_histogram_are_those_of_what_came_between_the_pages():
    rng = np.random.default_rng(0)
    edges = np.geomspace(0.01, 100, 60)
    registry = prometheus_client.CollectorRegistry()
    name = "vllm:e2e_request_latency_seconds"
    histogram = prometheus_client.Histogram(name, "", buckets=edges.tolist(), registry=registry)
    gauge = "vllm:num_requests_running 1\n"
    for value in rng.lognormal(3, 0.2, 500):
        histogram.observe(value)
    before = prometheus_client.generate_latest(registry).decode() + gauge
    later = rng.lognormal(0, 0.7, 2000)
    for value in later:
        histogram.observe(value)
    told = read(before, prometheus_client.generate_latest(registry).decode() + gauge)
    for q in (50, 95, 99):
        assert told.quantile("e2e_ms", q) == pytest.approx(1000 * np.percentile(later, q), rel=0.2)


def test_exemplars_and_a_bucket_without_an_edge_change_no_figure():
    plain = vllm(110, 3, 0.25, 0.05)
    open_metrics = "".join(
        f'{line} # {{trace_id="5"}} 0.05 1717171717.0\n' if "_bucket" in line else f"{line}\n"
        for line in plain.splitlines()
    )
    odd = 'vllm:time_to_first_token_seconds_bucket{engine="0"} 9\nvllm:time_to_first_token_seconds_bucket{le="x"} 9\n'
    told, expected = read(open_metrics + odd + "# EOF\n"), read(plain)
    assert told.quantiles == expected.quantiles
    assert 0.0 < told.quantile("ttft_ms", 50) <= 100.0
    assert (told.mean("waiting"), told.mean("kv_used")) == (3.0, 0.25)


def test_a_page_of_nobody_known_says_who_is_known():
    with pytest.raises(ValueError, match="vLLM"):
        read("http_requests_total 5\n")
