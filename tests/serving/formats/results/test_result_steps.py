"""Steps of a server that show in the requests of a result file."""

import math

import numpy as np
import pytest

from batchpilot.core import Limits
from batchpilot.engines.simulated.simulation import simulate
from batchpilot.latency.fitting import fit
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.serving.formats.results.base import Request, Requests
from batchpilot.serving.formats.results.steps import steps_seen
from batchpilot.workloads.table import RequestTable

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
