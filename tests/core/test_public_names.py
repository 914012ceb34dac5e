"""What a person sees who types `import batchpilot` and looks around."""

import pydoc

import numpy as np
import pytest

import batchpilot
from batchpilot import Limits, RequestTable, SaturationParameters, calibrate, simulate
from batchpilot.latency import Observations

LATENCY = SaturationParameters(p_max=20.0, k_b=8.0, k_s=0.02, tau_0=5.0)


def requests(count=40):
    return RequestTable.from_arrays(np.arange(count) * 100.0, np.full(count, 200), np.full(count, 20))


def test_dir_is_the_public_names_and_each_can_be_had():
    assert set(dir(batchpilot)) == {*batchpilot.__all__, "__version__"}
    for name in batchpilot.__all__:
        assert getattr(batchpilot, name) is not None
    assert {"TunerSession", "load_policy", "calibrate", "plan"} <= set(batchpilot.__all__)


def test_help_begins_with_an_example():
    shown = pydoc.render_doc(batchpilot, renderer=pydoc.plaintext)
    assert shown.index("simulate(requests, latency") < shown.index("PACKAGE CONTENTS")


def test_what_runs_return_is_shown_in_a_line():
    table = requests()
    assert repr(table).startswith(
        "<RequestTable: 40 requests, in 3.9 s, mean prompt 200, output 20 tokens, promised TTFT "
    )
    result = simulate(table, LATENCY, Limits(batch_size=8))
    shown = repr(result)
    assert shown.startswith("<SimulationResult: 40 requests in ")
    assert f"{result.goodput_fraction:.1%} of the output tokens within the promise" in shown
    assert f"p95 {result.percentile_ms('ttft_ms', 95):,.0f} ms" in shown
    assert "\n" not in shown


def test_a_table_without_requests_is_shown_too():
    assert repr(RequestTable.from_arrays([], [], [])) == "<RequestTable: no requests>"


def test_steps_are_calibrated_from_a_file_and_from_memory(tmp_path):
    batch = np.repeat([1, 2, 4, 8, 16, 32], 6)
    tokens = batch * np.tile([1, 2, 8, 32, 64, 128], 6)
    steps = Observations(batch, tokens, 0 * batch, LATENCY.predict(batch, tokens, 0 * batch))
    path = tmp_path / "steps.csv"
    rows = np.column_stack([steps.batch_size, steps.tokens, steps.context_tokens, steps.latency_ms])
    lines = [",".join(repr(float(value)) for value in row) for row in rows]
    path.write_text("\n".join(["batch_size,tokens,context_tokens,latency_ms", *lines]))
    from_memory, from_file = calibrate(steps, highest_ms=1e6), calibrate(path, highest_ms=1e6)
    assert from_memory.parameters == from_file.parameters
    np.testing.assert_allclose(from_file.parameters.predict_one(8, 256, 0), LATENCY.predict_one(8, 256, 0), rtol=0.01)


def test_steps_that_are_all_too_slow_are_named_with_their_file(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text("batch_size,tokens,context_tokens,latency_ms\n1,1,0,900\n")
    with pytest.raises(ValueError, match=r"steps\.csv: no usable step is left"):
        calibrate(path)
