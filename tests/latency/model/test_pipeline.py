"""Layers in stages: what a batch in flight takes, and which cuts there are."""

import pytest

from batchpilot.configs.catalogue import device, model
from batchpilot.latency.model.pipeline import staged
from batchpilot.latency.model.roofline import roofline

CHIP, SERVED = device("A100-80GB"), model("Llama-2-70B")


def test_one_stage_changes_nothing():
    known = roofline(CHIP, SERVED).parameters
    assert staged(known, CHIP, SERVED, 1) == known


def test_a_batch_takes_what_the_whole_model_takes_and_a_message_between_two_stages():
    known = roofline(CHIP, SERVED).parameters
    four = staged(known, CHIP, SERVED, 4)
    # 2,048 tokens of 8,192 activations of two bytes, three times over 300 GB/s of which a third is reached: 1.05 ms.
    added = four.predict_one(8, 2048, 0) - known.predict_one(8, 2048, 0)
    assert added == pytest.approx(3 * (2048 * 8192 * 2 / (300e6 * 0.32) + 0.00023), rel=1e-6)
    assert added < 0.02 * known.predict_one(8, 2048, 0)


@pytest.mark.parametrize(("chip", "stages", "says"), [("A100-80GB", 0, "1 to 80"), ("A100-80GB", 81, "1 to 80")])
def test_impossible_cuts_are_refused(chip, stages, says):
    known = roofline(device(chip), SERVED).parameters
    with pytest.raises(ValueError, match=says):
        staged(known, device(chip), SERVED, stages)


def test_a_device_without_a_link_has_no_stages():
    alone = next(chip for chip in (device("M3-Pro"), device("CPU")) if chip.link_gb_per_s is None)
    with pytest.raises(ValueError, match="has no link"):
        staged(roofline(CHIP, SERVED).parameters, alone, SERVED, 2)
