"""Weights of a type that no table holds: shorter small steps, near what was measured where both are known."""

import statistics

import pytest

from batchpilot.configs.catalogue import device, model
from batchpilot.latency.measured.other_types import lighter, with_fewer_bytes
from batchpilot.latency.measured.table import measured_entries
from batchpilot.latency.model.registry import find_latency


@pytest.mark.parametrize("name", ["H100-80GB", "H200", "B200", "L40S", "RTX-PRO-6000"])
def test_the_bytes_of_fp8_in_16_bit_measurements_are_near_what_was_measured_in_fp8(name):
    entries = {(one.model, one.tensor_parallel, one.dtype): one for one in measured_entries(name)}
    ratios = []
    for (served, count, dtype), known in entries.items():
        at_16_bits = entries.get((served, count, "fp16"))
        if dtype == "fp8" and at_16_bits is not None and not model(served).experts:
            told = lighter(at_16_bits, device(name), model(served), "fp8")
            ratios.append(told.predict_one(16, 16, 16_384) / known.served.predict_one(16, 16, 16_384))
    assert len(ratios) >= 20
    assert 0.8 < statistics.median(ratios) < 1.25


def test_int4_decodes_faster_and_computes_prompts_as_fast():
    place = device("L40S"), model("Mistral-Small-24B"), 2
    found = with_fewer_bytes(*place, "int4")
    assert found is not None
    told, entry = found
    assert told.predict_one(1, 1, 1024) < 0.7 * entry.served.predict_one(1, 1, 1024)
    assert told.predict_one(1, 8192) == pytest.approx(entry.served.predict_one(1, 8192), rel=0.05)
    estimate = find_latency(*place, "int4")
    assert estimate.parameters == told
    assert estimate.provenance.startswith("estimated: the bytes of int4 in what was measured: Mistral-Small-24B (fp16")


def test_nothing_is_made_up_where_nothing_was_measured_or_arithmetic_changes():
    assert with_fewer_bytes(device("T4"), model("Qwen3-8B"), 1, "int4") is None
    assert with_fewer_bytes(device("H100-80GB"), model("Qwen3-8B"), 1, "nvfp4") is None
    assert with_fewer_bytes(device("H100-80GB"), model("gpt-oss-120b"), 2, "int4") is None
