"""Entries are built from measured operators, the same every time, and what has no measurements is said to have none."""

import pytest

pytest.importorskip("aiconfigurator_core")

from batchpilot.configs.catalogue import device, model
from batchpilot.latency.measured.building import queried
from batchpilot.latency.measured.grid import Step
from batchpilot.latency.measured.operators import Deployment, MeasuredOperators, NotMeasuredError
from batchpilot.latency.measured.shipping import Layout, build_entry
from batchpilot.latency.measured.table import measured_entries


def test_a_shipped_entry_is_built_again_to_the_last_digit():
    shipped = next(entry for entry in measured_entries("H200") if entry.model == "gpt-oss-20b")
    layout = Layout(tensor_parallel=shipped.tensor_parallel, dtype=shipped.dtype, kv_dtype=shipped.kv_dtype)
    assert build_entry(device("H200"), model("gpt-oss-20b"), layout) == shipped


def test_a_mixture_of_experts_is_fitted_within_8_percent_by_kind_of_step():
    entry = build_entry(device("H200"), model("gpt-oss-120b"), Layout(dtype="mxfp4"))
    assert max(entry.errors.values()) < 0.08


@pytest.mark.parametrize(("served", "count"), [("MiniMax-M2.5", 4), ("Qwen3-30B-A3B", 1)])
def test_products_in_fp8_hold_no_launches_from_the_host(served, count):
    # Published: MiniMax-M2.5 on 4 x B200 under vLLM 0.19 takes 8.0 ms a token with four clients.
    entry = build_entry(device("B200"), model(served), Layout(tensor_parallel=count, dtype="fp8"))
    assert entry.served.predict_one(1, 1, 1536) < entry.served.predict_one(4, 4, 4 * 1536) < 9
    assert entry in measured_entries("B200")


def test_steps_beyond_a_table_are_passed_over_and_mistakes_are_not():
    source = MeasuredOperators(Deployment(device="H200", model="Qwen/Qwen3-8B"))
    with pytest.raises(ValueError, match="u32"):
        source.step_ms(Step("decode", decoding=-1))
    broken = replace_step(source, AttributeError("a mistake of ours"))
    with pytest.raises(AttributeError, match="a mistake of ours"):
        queried(broken, 1e6)
    beyond = replace_step(source, NotMeasuredError("no such table"))
    assert queried(beyond, 1e6)[0] == []


def replace_step(source, error):
    """The same source, of which every step is answered by an error."""

    class Erring:
        deployment = source.deployment

        def step_ms(self, step):
            raise error

    return Erring()


def test_what_was_not_measured_or_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="no operators were measured on T4"):
        build_entry(device("T4"), model("Qwen3-8B"), Layout())
    with pytest.raises(ValueError, match="does not fit on 1 x H200"):
        build_entry(device("H200"), model("DeepSeek-V3"), Layout(dtype="fp8"))
    with pytest.raises(ValueError, match="no measurements for"):
        build_entry(device("H200"), model("Qwen3-8B"), Layout(dtype="int4"))
