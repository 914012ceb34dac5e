"""Result files of load generators, trimmed from real runs against one small server: what is read, what is corrected."""

import gzip
import json

import numpy as np
import pytest
from result_files import DATA, content, only

from batchpilot.core import SLO
from batchpilot.serving.formats.results import FORMATS, read_results
from batchpilot.serving.formats.results.endings import ending


@pytest.mark.parametrize("path", sorted(DATA.iterdir()), ids=lambda path: path.name)
def test_every_file_tells_its_requests_or_its_sums(path):
    for run in read_results(path):
        if run.requests is None:
            assert run.stated["requests"] > 0
            assert run.stated["throughput_tokens_per_s"] > 0
            assert 0 < run.stated["tpot_p50_ms"] < run.stated["ttft_p50_ms"] < run.stated["e2e_p50_ms"]
        else:
            outcome = run.requests.outcome(elapsed_ms=run.elapsed_ms)
            assert outcome.throughput_tokens_per_s > 0
            served = outcome.finish_code == 1
            assert np.all(outcome.ttft_ms[served] < outcome.e2e_ms[served])
            assert run.requests.due_ms[0] == 0


def test_tpot_of_guidellm_is_without_ttft():
    run = only("guidellm-0.8.1-poisson.json")
    entries = content("guidellm-0.8.1-poisson.json")["benchmarks"][0]["requests"]["successful"]
    theirs = sorted(entry["time_per_output_token_ms"] for entry in entries)
    between = sorted(entry["inter_token_latency_ms"] for entry in entries)
    assert sorted(run.requests.tpot_ms) == pytest.approx(between, rel=1e-6)
    assert all(with_first > without for with_first, without in zip(theirs, between, strict=True))
    assert run.stated["tpot_p50_ms"] != pytest.approx(
        content("guidellm-0.8.1-poisson.json")["benchmarks"][0]["metrics"]["time_per_output_token_ms"]["successful"][
            "percentiles"
        ]["p50"]
    )


def test_guidellm_counts_from_the_timetable_where_there_is_one():
    planned, paced = only("guidellm-0.8.1-poisson.json"), only("guidellm-0.8.1-concurrent.json")
    entry = min(
        content("guidellm-0.8.1-poisson.json")["benchmarks"][0]["requests"]["successful"],
        key=lambda one: one["info"]["timings"]["targeted_start"],
    )
    late_ms = 1000.0 * entry["request_dispatch_delay"]
    assert planned.requests.ttft_ms[0] == pytest.approx(entry["time_to_first_token_ms"] + late_ms)
    assert planned.requests.late_ms[0] == pytest.approx(late_ms)
    assert np.isnan(paced.requests.late_ms).all()


def test_guidellm_asked_for_as_many_tokens_as_its_requests_say():
    assert only("guidellm-0.8.1-concurrent.json").requests.wanted_tokens.tolist() == [20] * 5


def test_a_sample_of_guidellm_is_no_run(tmp_path):
    report = content("guidellm-0.8.1-poisson.json")
    report["benchmarks"][0]["requests"]["successful"].pop()
    path = tmp_path / "benchmarks.json"
    path.write_text(json.dumps(report))
    (run,) = read_results(tmp_path)
    assert run.requests is None
    assert "7 of 8" in run.notes[1]


@pytest.mark.parametrize(("scale", "slow"), [(1.0, True), (0.001, False)])
def test_milliseconds_of_a_mooncake_trace_that_guidellm_took_for_seconds(scale, slow, tmp_path):
    report = content("guidellm-0.8.1-mooncake.json")
    report["config"]["spec"]["data"][0]["time_scale"] = scale
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    (run,) = read_results(path)
    assert run.trace_scale == (0.001 if slow else 1.0)
    assert any("1,000 times" in note for note in run.notes) == slow
    recorded = [0.0, 0.0, 1.0, 2.0, 3.0]
    assert run.requests.due_ms * 0.001 == pytest.approx(recorded, abs=1e-3)


def test_reasoning_that_inference_perf_skips_comes_back():
    run = only("inference-perf-0.7-chat-per_request.json")
    entries = content("inference-perf-0.7-chat-per_request.json")
    for row, entry in enumerate(sorted(entries, key=lambda one: one["start_time"])):
        heard = entry["info"]["response_metrics"]["output_token_times"]
        first_word_ms = 1000.0 * (heard[0] - entry["start_time"])
        pace_ms = 1000.0 * (heard[-1] - heard[0]) / (len(heard) - 1)
        assert run.requests.output_tokens[row] == 30 > len(heard)
        assert run.requests.ttft_ms[row] == pytest.approx(max(first_word_ms - 8 * pace_ms, 0.0))
    assert any("reasoning" in note for note in run.notes)
    assert not any("reasoning" in note for note in only("inference-perf-0.7-per_request.json").notes)


def test_tpot_of_aiperf_and_of_inference_perf_is_ours():
    records = [json.loads(line) for line in (DATA / "aiperf-0.13-profile_export.jsonl").read_text().splitlines()]
    theirs = sorted(record["metrics"]["inter_token_latency"]["value"] for record in records)
    assert sorted(only("aiperf-0.13-profile_export.jsonl").requests.tpot_ms) == pytest.approx(theirs, rel=1e-3)
    for entry, tpot in zip(
        sorted(content("inference-perf-0.7-per_request.json"), key=lambda one: one["start_time"]),
        only("inference-perf-0.7-per_request.json").requests.tpot_ms,
        strict=True,
    ):
        times = entry["info"]["response_metrics"]["output_token_times"]
        assert tpot == pytest.approx(1000.0 * (times[-1] - times[0]) / (len(times) - 1))


def test_aiperf_counts_from_the_credit():
    record = json.loads((DATA / "aiperf-0.13-profile_export.jsonl").read_text().splitlines()[0])
    metadata = record["metadata"]
    late_ms = 1e-6 * (metadata["request_start_ns"] - metadata["credit_issued_ns"])
    assert late_ms > 0
    assert any(
        ttft == pytest.approx(record["metrics"]["time_to_first_token"]["value"] + late_ms)
        for ttft in only("aiperf-0.13-profile_export.jsonl").requests.ttft_ms
    )


def test_vllm_requests_that_waited_for_a_client_waited():
    told = content("vllm-0.32-refused.json")
    requests = only("vllm-0.32-refused.json").requests
    waits = np.array(told["queue_times"])
    served = requests.finish_code == 1
    order = np.argsort(np.array(told["start_times"]) - waits, kind="stable")
    assert waits.max() > 0.4
    assert requests.late_ms == pytest.approx(1000.0 * waits[order])
    expected = 1000.0 * (np.array(told["ttfts"]) + waits)[order]
    assert requests.ttft_ms[served] == pytest.approx(expected[served])


def test_vllm_without_a_rate_is_paced_by_its_clients(tmp_path):
    told = content("vllm-0.32-refused.json") | {"request_rate": "inf"}
    path = tmp_path / "closed.json"
    path.write_text(json.dumps(told))
    (run,) = read_results(path)
    assert np.isnan(run.requests.late_ms).all()


def test_a_refusal_is_none_of_the_failures():
    outcome = only("vllm-0.32-refused.json").requests.outcome()
    assert outcome.count("failed") == 0
    assert outcome.count("refused_on_arrival") == content("vllm-0.32-refused.json")["errors"].count(
        "Service Unavailable"
    )
    assert ending("HTTP 500 Internal Server Error") == "failed"
    assert ending("anything", 429) == "refused_on_arrival"
    assert ending("CancelledError") == "cancelled"


def test_lines_of_several_runs_are_several_runs(tmp_path):
    line = (DATA / "vllm-0.32-plain.json").read_text().strip()
    path = tmp_path / "appended.json.gz"
    path.write_bytes(gzip.compress(f"{line}\n{line}".encode()))
    assert [run.name for run in read_results(path)] == ["appended.json.gz #1", "appended.json.gz #2"]


def test_a_promise_judges_single_requests():
    requests = only("vllm-0.32-detailed.json").requests
    kept = requests.outcome(SLO(1e5, 1e5)).slo_attainment
    missed = requests.outcome(SLO(1.0, 1.0)).slo_attainment
    assert (kept, missed) == (1.0, 0.0)


def test_every_format_has_a_file_of_its_own_here():
    fitting = set()
    for path in DATA.iterdir():
        for run in read_results(path):
            fitting.add((run.tool.split()[0], run.requests is None))
    kinds = {"vllm", "GuideLLM", "AIPerf", "inference-perf"}
    assert {tool for tool, _ in fitting} == kinds
    assert set(FORMATS) >= {"batchpilot"}
