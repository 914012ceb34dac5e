"""The saturation model on measured steps of Llama-2-70B: how right it is, and that outliers do not drag it."""

import os
from pathlib import Path

import pytest

from batchpilot.latency.fitting.judging import compare, judge
from batchpilot.latency.fitting.measurement_files import read_measurements
from batchpilot.latency.fitting.regressors import make_regressor
from batchpilot.latency.fitting.saturation_fit import fit
from batchpilot.latency.model.registry import shipped_latencies

SHARED = Path(os.environ.get("BATCHPILOT_SHARED", Path(__file__).parents[4] / "shared"))
MEASURED = SHARED / "measurements" / "splitwise_llama2_70b.csv"

pytestmark = pytest.mark.skipif(not MEASURED.exists(), reason="no ../shared/measurements beside the checkout")

DEVICES = ("A100-80GB", "H100-80GB")
CATALOGUED = [entry for entry in shipped_latencies().entries if "splitwise" in entry.source]


def steps(device, tensor_parallel):
    select = {"device": device, "tensor_parallel": str(tensor_parallel)}
    return read_measurements(MEASURED, select=select).observations.cleaned(highest_ms=60_000)[0]


def mean_error(parameters, observed):
    predicted = parameters.predict(observed.batch_size, observed.tokens, observed.context_tokens)
    return judge(predicted, observed.latency_ms).mape


@pytest.mark.parametrize("device", DEVICES)
def test_decode_and_prefill_together_are_within_six_percent_on_average(device):
    observed = steps(device, 4)
    assert len(observed) == 210
    assert mean_error(fit(observed).parameters, observed) <= 0.06


@pytest.mark.parametrize("device", DEVICES)
def test_beyond_its_range_it_is_less_wrong_than_linear_and_polynomial_models(device):
    observed = steps(device, 4)
    beyond = {
        (kind, loss): compare(lambda kind=kind, loss=loss: make_regressor(kind, loss=loss), observed).beyond.mape
        for kind, loss in (
            ("linear", "absolute"),
            ("linear", "relative"),
            ("polynomial", "absolute"),
            ("polynomial", "relative"),
            ("saturation", "relative"),
        )
    }
    ours = beyond.pop(("saturation", "relative"))
    assert ours < 0.2
    assert ours < min(beyond.values())


@pytest.mark.parametrize("device", DEVICES)
def test_an_absolute_loss_wins_on_r2_and_loses_on_decode(device):
    observed = steps(device, 4)
    decode = observed.context_tokens > 0
    found = {}
    for loss in ("relative", "absolute"):
        predicted = make_regressor("saturation", loss=loss, robust=False).fit(observed).predict(observed)
        found[loss] = (
            judge(predicted, observed.latency_ms).r2,
            judge(predicted[decode], observed.latency_ms[decode]).mape,
        )
    assert found["absolute"][0] > found["relative"][0]
    assert found["absolute"][1] > 2 * found["relative"][1]


@pytest.mark.parametrize("device", DEVICES)
def test_outliers_of_tensor_parallel_2_do_not_drag_a_robust_fit(device):
    observed = steps(device, 2)
    sound = observed[observed.batch_size < 64]
    alone, with_outliers, dragged = (
        mean_error(fit(fitted, robust=robust).parameters, sound)
        for fitted, robust in ((sound, True), (observed, True), (observed, False))
    )
    assert with_outliers < alone + 0.01
    assert dragged > 2 * with_outliers


@pytest.mark.parametrize("entry", CATALOGUED, ids=lambda entry: f"{entry.device}-{entry.tensor_parallel}")
def test_catalogued_figures_are_those_of_the_measurements(entry):
    observed = steps(entry.device, entry.tensor_parallel)
    fitted = observed if entry.tensor_parallel == 4 else observed[observed.batch_size < 64]
    assert entry.points == len(fitted)
    assert mean_error(entry.parameters, fitted) == pytest.approx(entry.mean_relative_error, rel=1e-3)
    again = fit(fitted).parameters
    assert entry.parameters.predict(8, [8, 512, 4096], 4000) == pytest.approx(
        again.predict(8, [8, 512, 4096], 4000), rel=1e-2
    )


def test_every_measured_device_and_sharing_is_catalogued():
    places = {(entry.device, entry.model, entry.tensor_parallel, entry.kind) for entry in CATALOGUED}
    assert places == {(device, "Llama-2-70B", share, "measured") for device in DEVICES for share in (2, 4)}
