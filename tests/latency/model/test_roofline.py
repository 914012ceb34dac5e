"""The estimate from published figures: its limits, its label, and how far it is from what others measured."""

import statistics
from pathlib import Path

import pytest

from batchpilot.configs.catalogue import device, devices, model, models
from batchpilot.configs.footprint import weight_bytes
from batchpilot.latency.measured.operators import SYSTEMS
from batchpilot.latency.measured.table import measured_entries
from batchpilot.latency.model.roofline import ATTAINABLE, roofline

DECODING = tuple((size, size, size * 1024) for size in (1, 4, 16, 64, 128))
PREFILL = ((1, 512, 0), (1, 2048, 0), (1, 8192, 0))


@pytest.mark.parametrize(
    ("served", "reference_ms", "told"),
    [("Llama-2-7B", 20, "11.7, 8.7"), ("Llama-2-13B", 40, "21.2, 16.7"), ("Llama-2-70B", 100, "102, 88.7")],
)
def test_reference_decode_latencies_stand_between_the_time_of_reading_and_the_documents(served, reference_ms, told):
    # SPEC 4: ms per token at 1024 tokens of context on A100; the document's device has 40 GB.
    place, entry = device("A100-40GB"), model(served)
    ours_ms = roofline(place, entry).parameters.predict_one(1, 1, 1024)
    reading_ms = weight_bytes(entry) / (place.bandwidth_gb_per_s * 1e6)
    assert 1.1 < ours_ms / reading_ms < 1.5
    assert 0.5 * reference_ms < ours_ms < 1.03 * reference_ms
    assert f"{ours_ms:.3g}, {reading_ms:.1f}" == told
    page = (Path(__file__).parents[3] / "docs/results-reality.md").read_text()
    assert f"{told} ({reference_ms})" in page


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("steps", [DECODING, PREFILL], ids=["decode", "prefill"])
def test_the_median_is_near_what_was_measured_of_each_device(name, steps):
    ratios = []
    for entry in measured_entries(name):
        if entry.dtype == "fp16" and entry.tensor_parallel <= 2:
            told = roofline(device(name), model(entry.model), entry.tensor_parallel).parameters
            ratios += [told.predict_one(*step) / entry.served.predict_one(*step) for step in steps]
    assert len(ratios) >= 30
    assert 0.75 < statistics.median(ratios) < 1.33


def test_a_step_of_few_tokens_reads_few_experts():
    place = device("H100-80GB"), model("Qwen3-30B-A3B")
    p = roofline(*place).parameters
    read_ms = weight_bytes(place[1]) / (place[0].bandwidth_gb_per_s * 1e6 * ATTAINABLE["nvidia"].bandwidth)
    assert p.predict_one(1, 1) - p.tau_0 < 0.3 * read_ms
    assert p.tau_e + 1 / (p.p_max * p.k_s) == pytest.approx(read_ms, rel=0.1)


@pytest.mark.parametrize("serving", devices(), ids=lambda entry: entry.name)
@pytest.mark.parametrize("dtype", ["fp16", "int8", "int4"])
def test_parameters_stay_within_the_feasible_set(serving, dtype):
    # Saturation document: P_max 0.1-10000, k_B 1e-4-10, k_S 1e-4-1, w_1 >= 1e-6.
    for served in models():
        for tensor_parallel in (1, 8) if serving.link_gb_per_s else (1,):
            p = roofline(serving, served, tensor_parallel, dtype).parameters
            assert 0.1 <= p.p_max <= 10_000
            assert 1e-4 <= p.k_b <= 10
            assert 1e-4 <= p.k_s <= 1
            assert p.w_1 >= 1e-6


def test_one_token_takes_the_time_of_reading_the_weights_and_many_that_of_their_operations():
    serving, served = device("A100-80GB"), model("Llama-2-7B")
    parameters = roofline(serving, served).parameters
    attainable = ATTAINABLE["nvidia"]
    read_ms = weight_bytes(served) / (serving.bandwidth_gb_per_s * 1e6 * attainable.bandwidth)
    compute_ms = 2 * served.parameters * 100_000 / (serving.peak_tflops * 1e9 * attainable.compute)
    fixed_ms = parameters.tau_0 + parameters.tau_b
    assert float(parameters.predict(1, 1)) - fixed_ms == pytest.approx(read_ms, rel=0.01)
    assert float(parameters.predict(1, 100_000)) - fixed_ms == pytest.approx(compute_ms, rel=0.01)


def test_the_rate_is_the_same_where_p_max_meets_its_floor():
    # 70B on the catalogued CPU computes fewer than 0.1 tokens/ms; w_1 carries what p_max may not.
    p = roofline(device("CPU"), model("Llama-2-70B")).parameters
    assert p.p_max == 0.1
    rate = 5.0e9 * ATTAINABLE["cpu"].compute / (2 * 68_976_648_192)
    assert p.p_max / p.w_1 == pytest.approx(rate)


def test_fewer_bytes_per_weight_speed_up_decode_but_not_prefill():
    decode, prefill = (
        [float(roofline(device("A10"), model("Llama-3-8B"), 1, dtype).parameters.predict(1, tokens)) for dtype in
         ("fp16", "int8", "int4")]
        for tokens in (1, 16_384)
    )  # fmt: skip
    assert decode[0] > 1.5 * decode[1] > 1.5 * decode[2]
    assert prefill == pytest.approx([prefill[0]] * 3, rel=0.02)


def test_sharing_a_model_gains_less_than_its_devices():
    alone, shared = (
        float(roofline(device("H100-80GB"), model("Llama-2-70B"), count).parameters.predict(1, 1)) for count in (1, 4)
    )
    assert alone / 4 < shared < alone


def test_the_estimate_says_that_it_is_one():
    assert (
        roofline(device("T4"), model("Qwen3-0.6B"), 2, "int8").provenance
        == "estimated: roofline of Qwen3-0.6B (int8) on 2 x T4"
    )


@pytest.mark.parametrize(
    ("serving", "arguments", "says"),
    [
        ("M3-Ultra", (2,), "M3-Ultra has no link"),
        ("T4", (0,), "tensor_parallel is 0"),
        ("T4", (1, "fp4"), "unknown dtype 'fp4'"),
    ],
)
def test_what_cannot_be_estimated_is_refused(serving, arguments, says):
    with pytest.raises(ValueError, match=says):
        roofline(device(serving), model("Qwen3-0.6B"), *arguments)
