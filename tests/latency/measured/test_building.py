"""Entries are built from measured operators, the same every time, and what has no measurements is said to have none."""

import pytest

pytest.importorskip("aiconfigurator_core")

from batchpilot.configs.catalogue import device, model
from batchpilot.latency.measured.shipping import Layout, build_entry
from batchpilot.latency.measured.table import measured_entries


def test_a_shipped_entry_is_built_again_to_the_last_digit():
    shipped = next(entry for entry in measured_entries("H200") if entry.model == "gpt-oss-20b")
    layout = Layout(tensor_parallel=shipped.tensor_parallel, dtype=shipped.dtype, kv_dtype=shipped.kv_dtype)
    assert build_entry(device("H200"), model("gpt-oss-20b"), layout) == shipped


def test_a_mixture_of_experts_is_fitted_within_8_percent_by_kind_of_step():
    entry = build_entry(device("H200"), model("gpt-oss-120b"), Layout(dtype="mxfp4"))
    assert max(entry.errors.values()) < 0.08


def test_what_was_not_measured_or_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="no operators were measured on T4"):
        build_entry(device("T4"), model("Qwen3-8B"), Layout())
    with pytest.raises(ValueError, match="does not fit on 1 x H200"):
        build_entry(device("H200"), model("DeepSeek-V3"), Layout(dtype="fp8"))
    with pytest.raises(ValueError, match="no measurements for"):
        build_entry(device("H200"), model("Qwen3-8B"), Layout(dtype="int4"))
