"""Drawn tokens follow the model's probabilities, cut where asked, and repeat from their seed."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from batchpilot.core.sampling import Sampling
from batchpilot.engines.torch.sampling import SamplingTable, choose, uniform

LOGITS = torch.tensor([2.0, 0.0, 1.0, -1.0, 0.5])


def draws(sampling, count=20_000):
    places = np.arange(count)
    table = SamplingTable(1)
    table.set(0, sampling, stream=0)
    return choose(LOGITS.expand(count, -1), table.draws[np.zeros(count, np.int64)], places).numpy()


def test_zero_temperature_takes_the_likeliest():
    assert set(draws(Sampling(), 50)) == {0}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_probabilities(temperature):
    frequency = np.bincount(draws(Sampling(temperature=temperature)), minlength=5) / 20_000
    np.testing.assert_allclose(frequency, (LOGITS / temperature).softmax(-1).numpy(), atol=0.012)


def test_top_p_keeps_the_likeliest_tokens_that_reach_it():
    # Probabilities 0.56, 0.21, 0.13, 0.08, 0.03 of tokens 0, 2, 4, 1, 3: the first two fall short of 0.8.
    frequency = np.bincount(draws(Sampling(temperature=1.0, top_p=0.8)), minlength=5) / 20_000
    kept = LOGITS.softmax(-1).numpy() * [1, 0, 1, 0, 1]
    np.testing.assert_allclose(frequency, kept / kept.sum(), atol=0.012)


def test_a_tiny_top_p_is_greedy():
    assert set(draws(Sampling(temperature=5.0, top_p=1e-6), 200)) == {0}


def seeds(seed, count):
    return np.full(count, seed, np.uint64)


def test_draws_depend_on_seed_stream_and_place_alone():
    requests, places = np.array([3, 4, 3]), np.array([7, 7, 8])
    together = uniform(seeds(1, 3), requests, places)
    assert len(set(together)) == 3
    for k in range(3):
        assert uniform(seeds(1, 1), requests[k : k + 1], places[k : k + 1])[0] == together[k]
    assert (uniform(seeds(2, 3), requests, places) != together).all()


def test_uniform_numbers_fill_the_unit_interval_evenly():
    requests, places = np.divmod(np.arange(40_000), 200)
    counts = np.histogram(uniform(seeds(0, 40_000), requests, places), bins=20, range=(0.0, 1.0))[0]
    assert counts.sum() == 40_000
    # Standard deviation of a bin is 44.
    assert np.abs(counts - 2000).max() < 180


@pytest.mark.parametrize("wrong", [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_values_outside_their_bounds_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)
