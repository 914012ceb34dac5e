"""The document's device rows stand as printed, with the note that they cannot be tokens per ms."""

import re
from pathlib import Path

import pytest

from batchpilot.configs.catalogue import device, model
from batchpilot.latency.model.documented import DOCUMENTED, documented_row
from batchpilot.latency.model.registry import find_latency

PAGE = (Path(__file__).parents[3] / "docs/latency-model.md").read_text()


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_page_shows_the_row_and_how_far_above_the_peak_it_is(name):
    row = documented_row(name)
    (printed,) = re.findall(rf"\| {name} \| (.*?) \|\n", PAGE)
    told = [float(figure.replace(",", "")) for figure in printed.split(" | ")]
    times = row.times_above_peak(device(name), model("Llama-2-7B"))
    assert told == [row.p_max, row.k_b, round(times)]
    assert times > 50


@pytest.mark.parametrize("name", DOCUMENTED)
def test_what_is_planned_with_stays_below_the_peak(name):
    served, card = model("Llama-2-7B"), device(name)
    parameters = find_latency(card, served).parameters
    assert 4096 / parameters.predict_one(1, 4096) < card.peak_tflops * 1e9 / (2 * served.active)


def test_another_device_is_refused_by_name():
    with pytest.raises(ValueError, match=r"device of the saturation document.*H100-80GB"):
        documented_row("H100")
