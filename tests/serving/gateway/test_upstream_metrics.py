"""What servers say of themselves in `/metrics`, and what is an address of one."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.serving.gateway.settings import GatewaySettings
from batchpilot.serving.gateway.upstream_metrics import read_upstream_metrics


def test_known_servers_are_read():
    page = """# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
"""
    read = read_upstream_metrics(page)
    assert (read.server, read.running, read.waiting, read.kv_used_fraction) == ("vLLM", 5, 7, 0.5)
    read = read_upstream_metrics('sglang:num_running_reqs{tp_rank="0"} 4\nsglang:num_queue_reqs{tp_rank="0"} 1\n')
    assert (read.server, read.running, read.waiting) == ("SGLang", 4, 1)
    assert math.isnan(read.kv_used_fraction)


def ranked(name, value, **labels):
    told = ",".join(f'{key}="{label}"' for key, label in labels.items())
    return f"{name}{{{told}}} {value}\n"


def sglang(**labels):
    told = {"num_running_reqs": 4.0, "num_queue_reqs": 1.0, "token_usage": 0.5}
    return "".join(ranked(f"sglang:{name}", value, model_name="m", **labels) for name, value in told.items())


@pytest.mark.parametrize(
    ("page", "running", "waiting"),
    [
        ("".join(sglang(tp_rank=rank, pp_rank=0) for rank in range(8)), 4, 1),
        ("".join(sglang(tp_rank=rank, pp_rank=stage) for rank in range(4) for stage in range(2)), 4, 1),
        ("".join(sglang(tp_rank=rank, moe_ep_rank=rank) for rank in range(4)), 4, 1),
        ("".join(sglang(attn_cp_rank=rank) for rank in range(4)), 4, 1),
        ("".join(sglang(tp_rank=rank, dp_rank=rank // 2) for rank in range(4)), 8, 2),
        ("".join(sglang(tp_rank=rank, dp_rank=0) for rank in range(4)), 4, 1),
        (sglang(priority="") + sglang(priority=0) + sglang(priority=5), 4, 1),
        (sglang(extra='a, b=\\"c\\" d} 9'), 4, 1),
    ],
)
def test_ranks_of_one_engine_are_not_added_up_and_data_parallel_ones_are(page, running, waiting):
    read = read_upstream_metrics(page)
    assert (read.server, read.running, read.waiting, read.kv_used_fraction) == ("SGLang", running, waiting, 0.5)


def test_openmetrics_with_timestamps_and_exemplars_is_read():
    page = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running {engine="0",model_name="a \\"b\\" {c}"} 3.0 1717171717.5
vllm:num_requests_waiting{engine="0",model_name="a \\"b\\" {c}"} 7.0 # {trace_id="}"} 99.0 1717171717.5
vllm:kv_cache_usage_perc{engine="0",model_name="a \\"b\\" {c}"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="a \\"b\\" {c}"} NaN
# EOF
"""
    read = read_upstream_metrics(page, {'a "b" {c}'})
    assert (read.server, read.running, read.waiting, read.kv_used_fraction) == ("vLLM", 3, 7, 0.25)
    assert read_upstream_metrics(page, {"another"}) is None


def test_llama_cpp_is_read():
    read = read_upstream_metrics("llamacpp:requests_processing 3\nllamacpp:requests_deferred 2\n")
    assert (read.server, read.running, read.waiting) == ("llama.cpp", 3, 2)


@given(st.text())
def test_any_other_page_says_nothing(page):
    assert read_upstream_metrics(page) is None


@pytest.mark.parametrize("upstream", ["", "127.0.0.1:8000", "ftp://x", "http://", "http://x/?a=b", "http://x:8000/v1/"])
def test_an_upstream_must_be_an_address(upstream):
    with pytest.raises(ValueError, match=r"must be the address of a server|leave out /v1"):
        GatewaySettings(upstream)
