"""Result files of load generators, trimmed from real runs against one small server: what is read, what is corrected."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from batchpilot.core import SLO, Limits
from batchpilot.engines.simulated.simulation import simulate
from batchpilot.latency.fitting import fit
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.serving.formats.results import FORMATS, read_results
from batchpilot.serving.formats.results.base import Request, Requests
from batchpilot.serving.formats.results.endings import ending
from batchpilot.serving.formats.results.steps import steps_seen
from batchpilot.workloads.table import RequestTable

DATA = Path(__file__).parent / "data"


def content(name):
    return json.loads((DATA / name).read_text())


def only(name):
    (run,) = read_results(DATA / name)
    return run


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "no result file"),
        ("{", "neither JSON"),
        (
            '{"endpoint_type": 1, "request_throughput": 1, "completed": 1, "ttfts": [1], "start_times": []}',
            "ttfts has 1",
        ),
        ('{"metadata": {}, "benchmarks": [{}]}', "'config' is missing"),
        ('[{"start_time": "x", "end_time": 1, "info": {}, "error": null}]', "inference-perf"),
        ('{"benchmarks": [], "metadata": 3}', "GuideLLM"),
    ],
)
def test_a_file_that_is_none_is_named_with_what_is_read(text, said, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"file\.json") as error:
        read_results(path)
    assert said in str(error.value)


@pytest.mark.parametrize("length", [10**30, 2**63 - 1, -1, 2.5])
def test_a_length_that_no_request_has_is_named(length):
    with pytest.raises(ValueError, match=rf"request 0: output_tokens is {length}; expected a whole number"):
        Requests.of([Request(0.0, 5, length, 10.0, 20.0)])


@pytest.mark.parametrize("text", ["", "\n", '{"metadata": {}, "benchmarks": []}'])
def test_a_file_without_a_run_is_told(text, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"file\.json: it holds no run"):
        read_results(path)


def test_a_folder_without_results_is_told(tmp_path):
    with pytest.raises(ValueError, match="no result file in this folder"):
        read_results(tmp_path)


def test_every_format_has_a_file_of_its_own_here():
    fitting = set()
    for path in DATA.iterdir():
        for run in read_results(path):
            fitting.add((run.tool.split()[0], run.requests is None))
    kinds = {"vllm", "GuideLLM", "AIPerf", "inference-perf"}
    assert {tool for tool, _ in fitting} == kinds
    assert set(FORMATS) >= {"batchpilot"}


TRUE = SaturationParameters(20.0, 0.12, 0.005, 0.0, 1.0, 12.0, 0.35, 0.04, 0.0002)


def served_requests(token_times):
    """A simulated server's requests, heard token by token or only their first and last, and its steps."""
    rng = np.random.default_rng(3)
    count = 300
    arrivals = np.cumsum(rng.exponential(140.0, count))
    table = RequestTable.from_arrays(arrivals, rng.integers(50, 600, count), rng.integers(20, 80, count))
    found = simulate(table, TRUE, Limits(64, 512), record_steps=True)
    ends = np.cumsum(np.zeros(0)) if found.step_log is None else found.step_log[:, 0] + found.step_log[:, 4]
    rows = []
    for row in range(count):
        due, ttft, e2e = table.arrival_ms[row], found.ttft_ms[row], found.e2e_ms[row]
        times = ends[(ends >= due + ttft - 1e-6) & (ends <= due + e2e + 1e-6)]
        output = int(found.generated_tokens[row])
        known = token_times and len(times) == output
        rows.append(
            Request(due, int(table.prompt_tokens[row]), output, ttft, e2e, token_ms=times.tolist() if known else ())
        )
    return Requests.of(rows), found.step_log


@pytest.mark.parametrize("token_times", [True, False])
def test_steps_that_show_in_requests_calibrate_the_server(token_times):
    requests, log = served_requests(token_times)
    assert requests.times_tokens == token_times
    steps = steps_seen(requests)
    found = fit(steps).parameters
    B, S, C, T = log[:, 1], log[:, 2], log[:, 3], log[:, 4]
    error = np.abs(found.predict(B, S, C) - T) / T
    assert np.mean(error) < 0.1


def test_requests_of_one_token_tell_no_step():
    requests = Requests.of([Request(0.0, 10, 1, 20.0, 20.0), Request(5.0, 10, 1, 20.0, 20.0)])
    with pytest.raises(ValueError, match="no step shows"):
        steps_seen(requests)


def test_lengths_that_nobody_tells_are_the_median():
    requests = Requests.of(
        [
            Request(0.0, 10, 5, 20.0, 60.0),
            Request(1.0, 0, 0, math.nan, math.nan, "failed"),
            Request(2.0, 30, 7, 20.0, 60.0),
        ]
    )
    assert requests.prompt_tokens.tolist() == [10, 20, 30]
    assert requests.wanted_tokens.tolist() == [5, 6, 7]
    assert requests.guessed == 1
