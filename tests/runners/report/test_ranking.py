"""A scenario ranks somebody where its best and worst strategies differ by more than chance."""

import math

import pytest

from batchpilot.runners.report.ranking import ranks_nobody, spreads


def rows(scenario, **shares):
    return [
        {"scenario": scenario, "tuner": tuner, "seed": seed, "goodput_fraction": share}
        for tuner, of_seeds in shares.items()
        for seed, share in enumerate(of_seeds)
    ]


def test_the_distance_is_that_of_best_and_worst_with_the_error_of_paired_runs():
    (one,) = spreads(rows("steady", a=[0.9, 0.7], b=[0.5, 0.3], c=[0.8, 0.6]))
    assert (one.best, one.worst, one.seeds) == ("a", "b", 2)
    assert one.high == pytest.approx(0.8)
    assert one.distance == pytest.approx(0.4)
    # The runs themselves differ by 0.2 from seed to seed, what one gains over the other does not.
    assert one.error == pytest.approx(0.0, abs=1e-12)
    (one,) = spreads(rows("steady", a=[0.9, 0.7], b=[0.5, 0.5]))
    assert one.error == pytest.approx(0.1)


def test_equal_strategies_are_not_ranked_nor_are_those_that_differ_by_chance():
    equal, chance, apart = (
        rows("equal", a=[1.0, 1.0], b=[0.999, 0.995]),
        rows("chance", a=[0.9, 0.5], b=[0.5, 0.7]),
        rows("apart", a=[0.9, 0.8], b=[0.5, 0.5]),
    )
    assert [one.ranks for one in spreads([*equal, *chance, *apart])] == [False, False, True]
    (told,) = ranks_nobody([*equal, *chance, *apart])
    assert told.startswith("Ranks nobody here: equal (0.003 \u00b1 0.002), chance (0.100 \u00b1 0.300). ")
    assert ranks_nobody(apart) == []


def test_one_seed_has_no_error_and_one_strategy_or_none_that_counts_no_distance():
    (one,) = spreads(rows("steady", a=[0.9], b=[0.5]))
    assert math.isnan(one.error)
    assert one.ranks
    assert spreads(rows("steady", a=[0.9, 0.8])) == []
    assert spreads(rows("steady", a=[math.nan], b=[0.5])) == []


def test_strategies_that_are_equal_in_every_run_are_no_error():
    (one,) = spreads(rows("steady", a=[1.0, 1.0], b=[1.0, 1.0]))
    assert not one.ranks
    assert one.distance == 0.0
