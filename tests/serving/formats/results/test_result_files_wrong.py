"""Result files that cannot be: what is wrong is told with its place, what it is and what may be."""

import gzip
import json
import math
from dataclasses import replace

import pytest
from result_files import DATA, changed, content

from batchpilot.serving.formats.results import read_results
from batchpilot.serving.formats.results.base import Request, Requests


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
