"""Result files of load generators, trimmed from real runs against one small server: what is read, what is corrected."""

import gzip
import json
import math
from dataclasses import replace
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
        ('{"metadata": {}, "benchmarks": [{}]}', "benchmarks[0].config is missing (read as a file of GuideLLM"),
        ('[{"start_time": "x", "end_time": 1, "info": {}, "error": null}]', "[0].start_time is 'x'; expected a number"),
        ('{"benchmarks": [], "metadata": 3}', "metadata is 3; expected an object of values by name"),
        ('{"endpoint_type": 1, "request_throughput": 1, "completed": 1}\n[1]', "line 2: no result file"),
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


AT_LEAST_0 = "expected a number of at least 0"
COUNT = "expected a whole number of tokens from 0 to 2147483647, or null for unknown"
VLLM, WAITED, VLLM_SUMS = "vllm-0.32-detailed.json", "vllm-0.32-refused.json", "vllm-0.32-plain.json"
GUIDELLM, AIPERF = "guidellm-0.8.1-poisson.json", "aiperf-0.13-profile_export.jsonl"
AIPERF_SUMS, PERF = "aiperf-0.13-profile_export_aiperf.json", "inference-perf-0.7-per_request.json"
PERF_SUMS = "inference-perf-0.7-chat-summary.json"
ONE = ("benchmarks", 0, "requests", "successful", 1)


def changed(name, path, value, folder):
    """A file of results in which one value is another."""
    text = (DATA / name).read_text()
    content = [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file = folder / name
    file.write_text("\n".join(map(json.dumps, content)) if name.endswith("l") else json.dumps(content))
    return file


@pytest.mark.parametrize(
    ("name", "path", "value", "said"),
    [
        (VLLM, ("ttfts", 2), -0.5, f"ttfts[2] is -0.5; {AT_LEAST_0}"),
        (VLLM, ("ttfts", 2), None, f"ttfts[2] is null; {AT_LEAST_0}"),
        (VLLM, ("ttfts", 2), True, f"ttfts[2] is True; {AT_LEAST_0}"),
        (VLLM, ("ttfts", 2), math.inf, f"ttfts[2] is inf; {AT_LEAST_0}"),
        (VLLM, ("ttfts",), {}, "ttfts is {}; expected a list"),
        (VLLM, ("start_times", 0), "now", "start_times[0] is 'now'; expected a number"),
        (VLLM, ("itls", 1, 0), -1, f"itls[1][0] is -1; {AT_LEAST_0}"),
        (VLLM, ("latencies", 0), "fast", f"latencies[0] is 'fast'; {AT_LEAST_0}, or null for unknown"),
        (VLLM, ("latencies",), [1.0], "latencies has 1 entries, start_times 8; each request has one of each"),
        (VLLM, ("latencies", 2), 1e-6, "request 2: e2e_ms is 0.001, ttft_ms "),
        (VLLM, ("output_lens", 3), 2.5, f"output_lens[3] is 2.5; {COUNT}"),
        (VLLM, ("input_lens", 3), 2**31, f"input_lens[3] is 2147483648; {COUNT}"),
        (VLLM, ("duration",), -1, f"duration is -1; {AT_LEAST_0}, or null for unknown"),
        (VLLM_SUMS, ("median_tpot_ms",), -3.0, f"median_tpot_ms is -3.0; {AT_LEAST_0}, or null for unknown"),
        (WAITED, ("queue_times", 0), -1.0, f"queue_times[0] is -1.0; {AT_LEAST_0}"),
        (GUIDELLM, (*ONE, "prompt_tokens"), -1, f"benchmarks[0].requests.successful[1].prompt_tokens is -1; {COUNT}"),
        (
            GUIDELLM,
            (*ONE, "info", "timings", "first_token_iteration"),
            "soon",
            "benchmarks[0].requests.successful[1].info.timings.first_token_iteration is 'soon'; expected a number, or",
        ),
        (
            GUIDELLM,
            (*ONE, "info", "timings", "first_token_iteration"),
            5.0,
            "benchmarks[0].requests.successful[1]: ttft_ms is -",
        ),
        (GUIDELLM, (*ONE, "info", "timings"), {}, "benchmarks[0].requests.successful[1].info.timings.request_start is"),
        (GUIDELLM, ("benchmarks", 0, "duration"), -2, f"benchmarks[0].duration is -2; {AT_LEAST_0}"),
        (AIPERF, (2, "metrics", "request_latency", "value"), -1, "line 3: metrics.request_latency.value is -1; "),
        (
            AIPERF,
            (0, "metrics", "request_latency", "unit"),
            "min",
            "line 1: metrics.request_latency.unit is 'min'; expected one of ns, us, ms, sec, s",
        ),
        (AIPERF, (1, "metrics", "inter_chunk_latency", "value", 4), -2.0, "line 2: metrics.inter_chunk_latency.value["),
        (AIPERF, (3, "metadata"), {}, "line 4: metadata.request_start_ns is missing"),
        (AIPERF, (3, "metadata"), 5, "line 4: metadata is 5; expected an object of values by name"),
        (AIPERF, (3,), [], "line 4 is []; expected an object of values by name"),
        (AIPERF_SUMS, ("time_to_first_token", "p95"), -1, f"time_to_first_token.p95 is -1; {AT_LEAST_0}"),
        (PERF, (0, "start_time"), None, "[0].start_time is null; expected a number"),
        (PERF, (0, "end_time"), -1, None),
        (PERF, (0, "info", "response_metrics", "output_token_times", 0), 1e9, "[0]: e2e_ms is "),
        (PERF_SUMS, ("successes", "latency", "time_per_output_token", "p99"), -1, "successes.latency.time_per_output_"),
    ],
)
def test_a_wrong_value_is_told_with_its_place_what_it_is_and_what_may_be(name, path, value, said, tmp_path):
    file = changed(name, path, value, tmp_path)
    if said is None:
        read_results(file)
        return
    with pytest.raises(ValueError, match="read as a file of") as error:
        read_results(file)
    assert str(error.value).startswith(f"{file}: {said}")


def test_a_wrong_run_among_lines_is_told_by_its_line(tmp_path):
    plain = content(VLLM_SUMS)
    path = tmp_path / "appended.json"
    path.write_text("\n".join(json.dumps(one) for one in (plain, plain | {"duration": "long"})))
    with pytest.raises(ValueError, match=r"appended\.json: line 2: duration is 'long'; expected a number"):
        read_results(path)


OWN = {"goodput_fraction": 1.0, "client_late_p99_ms": -0.01, "planned_requests": 1}
COLUMNS = {
    "due_ms": [0.0, 5.0],
    "late_ms": [-0.01, None],
    "prompt_tokens": [10, 10],
    "output_tokens": [2, 0],
    "ttft_ms": [20.0, None],
    "e2e_ms": [30.0, None],
    "finish_reason": ["length", "failed"],
}


def own(folder, **changes):
    path = folder / "results.json"
    path.write_text(json.dumps(OWN | {"per_request": COLUMNS | changes}))
    return path


def test_our_own_results_may_have_been_sent_a_moment_early(tmp_path):
    (run,) = read_results(own(tmp_path))
    assert run.requests.late_ms[0] == run.stated["client_late_p99_ms"] == -0.01
    assert run.requests.tpot_ms[0] == 10.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ttft_ms": [-20.0, None]}, "per_request.ttft_ms[0] is -20.0"),
        ({"e2e_ms": [10.0, None]}, "per_request[0]: e2e_ms is 10, ttft_ms 20; its end must not come before its first"),
        ({"due_ms": [0.0, None]}, "per_request.due_ms[1] is null; expected a number"),
        ({"finish_reason": ["length", "odd"]}, "per_request.finish_reason[1] is 'odd'; expected one of "),
        ({"late_ms": [0.0]}, "late_ms has 1 entries, due_ms 2"),
    ],
)
def test_a_wrong_value_in_our_own_results_is_told_with_its_place(changes, said, tmp_path):
    with pytest.raises(ValueError, match=r"results\.json: ") as error:
        read_results(own(tmp_path, **changes))
    assert said in str(error.value)


def test_a_time_below_zero_among_our_own_figures_is_told(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(OWN | {"tpot_p95_ms": -1.0}))
    with pytest.raises(ValueError, match=r"results\.json: tpot_p95_ms is -1\.0; expected a number of at least 0"):
        read_results(path)


def test_figures_that_a_tool_does_not_know_are_unknown(tmp_path):
    for value in (None, math.nan):
        (run,) = read_results(changed(VLLM_SUMS, ("output_throughput",), value, tmp_path))
        assert "throughput_tokens_per_s" not in run.stated
        assert run.stated["e2e_p50_ms"] > 0


def test_times_that_differ_by_rounding_alone_are_equal():
    requests = Requests.of([Request(0.0, 10, 2, 20.0005, 20.0), Request(1.0, 10, 2, -0.0005, 10.0)])
    assert requests.ttft_ms.tolist() == [20.0005, 0.0]
    assert requests.tpot_ms.tolist() == [0.0, 10.0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ttft_ms": -5.0}, "request 1: ttft_ms is -5; its first token must come no sooner than it was due"),
        ({"e2e_ms": math.inf}, "request 1: e2e_ms is inf; its end must come"),
        ({"e2e_ms": 4.0}, "request 1: e2e_ms is 4, ttft_ms 5; its end must not come before"),
        ({"token_ms": [5.0, 7.0, 6.0]}, "request 1: a token comes at 6 ms, behind a later one"),
        ({"due_ms": math.nan, "place": "line 7: "}, "line 7: due_ms is nan; expected a number"),
    ],
)
def test_a_request_that_cannot_have_been_is_never_averaged_in(changes, said):
    good = Request(0.0, 10, 2, 5.0, 10.0)
    with pytest.raises(ValueError, match=r"(request 1|line 7): ") as error:
        Requests.of([good, replace(good, **changes)])
    assert str(error.value).startswith(said)


def test_a_file_whose_gzip_is_cut_off_is_told(tmp_path):
    path = tmp_path / "results.json.gz"
    path.write_bytes(gzip.compress((DATA / VLLM).read_bytes())[:-20])
    with pytest.raises(ValueError, match=r"results\.json\.gz: its gzip data is cut off or damaged"):
        read_results(path)


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
