"""Pages of metrics in Prometheus' text format and in OpenMetrics."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.core.exposition import samples

NAME, ENGINE = "vllm:num_requests_running", {"engine": "0"}


def only(line, **options):
    (sample,) = samples(line, **options)
    return sample


@pytest.mark.parametrize(
    "line",
    [
        'vllm:num_requests_running{engine="0"} 3.0',
        'vllm:num_requests_running{engine="0"} 3',
        'vllm:num_requests_running {engine="0"} 3',
        'vllm:num_requests_running { engine = "0" , } 3',
        'vllm:num_requests_running{engine="0"}\t3',
        'vllm:num_requests_running{engine="0"}3',
        'vllm:num_requests_running{"engine"="0"} 3',
        '  vllm:num_requests_running{engine="0"} 3  ',
        'vllm:num_requests_running{engine="0"} 3 1717171717000',
        'vllm:num_requests_running{engine="0"} 3 1717171717.123',
        'vllm:num_requests_running{engine="0"} 3 # {trace_id="5"} 1.0',
        'vllm:num_requests_running{engine="0"} 3 # {trace_id="5"} 1.0 1717171717.123',
        'vllm:num_requests_running{engine="0"} 3 1717171717.123 # {trace_id="a} 9",span="{"} 1.0 2.0',
        'vllm:num_requests_running{engine="0"} 3 # {} 1.0',
        'vllm:num_requests_running{engine="0"} 3\r',
    ],
)
def test_a_sample_is_its_name_its_labels_and_the_value_before_timestamp_and_exemplar(line):
    assert only(line) == (NAME, ENGINE, 3.0)
    assert list(samples(f"# TYPE x gauge\n{line}\n# EOF\n", (NAME,))) == [only(line)]
    assert list(samples(line, ("sglang:",))) == []


def test_without_labels_too():
    assert only('a_total 7 # {trace_id="5"} 1.0 2.0') == ("a_total", {}, 7.0)
    assert only("a:b 7 1717171717") == ("a:b", {}, 7.0)
    assert only("a{} 7") == ("a", {}, 7.0)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (r"plain", "plain"),
        (r"", ""),
        (r"a \"b\" c", 'a "b" c'),
        (r"C:\\dir", r"C:\dir"),
        (r"\\", "\\"),
        (r"\\\"", '\\"'),
        (r"two\nlines", "two\nlines"),
        (r"not a line\\n", r"not a line\n"),
        (r"unknown \t", r"unknown \t"),
        (r"a=\"b\", c} 9 # {x", 'a="b", c} 9 # {x'),
        ("a\u2028b\x0bc\x85d\x1ce", "a\u2028b\x0bc\x85d\x1ce"),
    ],
)
def test_a_labels_value_is_what_it_stands_for(written, value):
    _, labels, _ = only(f'x{{text="{written}",engine="0"}} 3 # {{text="other"}} 1')
    assert labels == {"text": value, "engine": "0"}


@pytest.mark.parametrize(
    ("written", "value"),
    [("+Inf", math.inf), ("-Inf", -math.inf), ("Inf", math.inf), ("1e3", 1000.0), ("-0.5", -0.5), ("1.", 1.0)],
)
def test_values_are_numbers_as_go_writes_them(written, value):
    assert only(f"x {written}") == ("x", {}, value)


@pytest.mark.parametrize("written", ["NaN", "nan", "1_000", "\u0663", "three", "0x", "{count:1,sum:2}"])
def test_what_is_no_number_is_nan(written):
    name, labels, value = only(f'x{{engine="0"}} {written}')
    assert (name, labels, math.isnan(value)) == ("x", ENGINE, True)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# EOF",
        "# HELP x 3",
        '#x{engine="0"} 3',
        "x",
        "x-y 3",
        "3 x",
        'x{engine="0"}',
        'x{engine="0"} # {a="b"} 1',
        'x{engine="0" 3',
        'x{engine="0} 3',
        "x{engine=0} 3",
        'x{="0"} 3',
    ],
)
def test_what_is_no_sample_says_nothing(line):
    assert list(samples(line)) == []
    assert [name for name, _, _ in samples(f"a 1\n{line}\nb 2\n# EOF")] == ["a", "b"]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.lists(st.tuples(TEXT, st.sampled_from(["engine", "model_name"]), st.floats()), max_size=4))
def test_what_a_library_writes_is_read_as_it_was_told(told):
    pytest.importorskip("prometheus_client")
    from prometheus_client import exposition
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.openmetrics import exposition as openmetrics

    class Told:
        def collect(self):
            for place, (text, label, value) in enumerate(told):
                family = GaugeMetricFamily(f"told_x{place}", "of nothing", labels=[label])
                family.add_metric([text], value)
                yield family

    expected = [(f"told_x{place}", {label: text}, value) for place, (text, label, value) in enumerate(told)]
    for written in (exposition, openmetrics):
        # As text, so that NaN is like NaN.
        assert repr(list(samples(written.generate_latest(Told()).decode()))) == repr(expected)


def test_exemplars_of_a_library_change_no_value():
    client = pytest.importorskip("prometheus_client")
    from prometheus_client.openmetrics.exposition import generate_latest

    registry = client.CollectorRegistry()
    counter = client.Counter("served", "of nothing", ["engine"], registry=registry).labels(engine="0")
    times = client.Histogram("step_seconds", "of nothing", buckets=(0.5, 2.0), registry=registry)
    counter.inc(5, exemplar={"trace_id": '}" 9'})
    for value in (0.25, 1.0, 1.0, 7.0):
        times.observe(value, exemplar={"trace_id": str(value)})
    told = [one for one in samples(generate_latest(registry).decode()) if "created" not in one[0]]
    assert told == [
        ("served_total", ENGINE, 5.0),
        ("step_seconds_bucket", {"le": "0.5"}, 1.0),
        ("step_seconds_bucket", {"le": "2.0"}, 3.0),
        ("step_seconds_bucket", {"le": "+Inf"}, 4.0),
        ("step_seconds_count", {}, 4.0),
        ("step_seconds_sum", {}, 9.25),
    ]
