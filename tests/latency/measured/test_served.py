"""An engine at work takes longer than its operators alone; one that nobody looked at, as long."""

from batchpilot.latency.measured.served import OVERHEADS, as_served
from batchpilot.latency.measured.table import measured_entries
from batchpilot.latency.model.saturation import SaturationParameters

DENSE = SaturationParameters(10.0, 10.0, 0.01, tau_0=5.0, tau_b=0.02)
EXPERTS = SaturationParameters(10.0, 10.0, 0.01, tau_0=5.0, tau_e=8.0, s_e=20.0)


def test_steps_and_requests_cost_the_host_its_time():
    added = OVERHEADS["vllm"]
    for size in (1, 64):
        longer = as_served(DENSE, "vllm").predict_one(size, size) - DENSE.predict_one(size, size)
        assert abs(longer - added.step_ms - size * added.request_ms) < 1e-9


def test_prompts_of_a_mixture_take_longer_where_they_are_long_and_its_decoding_hardly():
    served = as_served(EXPERTS, "vllm")
    assert served.predict_one(1, 100_000) / EXPERTS.predict_one(1, 100_000) > 1.85
    assert served.predict_one(1, 1) / EXPERTS.predict_one(1, 1) < 1.03


def test_an_engine_without_figures_adds_nothing():
    assert as_served(EXPERTS, "sglang") == EXPERTS


def test_an_entry_says_both():
    entry = measured_entries("H200")[0]
    assert entry.served == as_served(entry.parameters, entry.engine)
    assert entry.served != entry.parameters
