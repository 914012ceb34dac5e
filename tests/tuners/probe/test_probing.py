"""The probe as a pure state machine: which sizes it proposes for a known score curve."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from batchpilot.tuners.probe.probing import MAX_BISECTIONS, Probe


def sizes_proposed(
    probe: Probe, score_of: Callable[[int], float], is_safe=lambda size: True, too_large_from: int = 10_000
) -> list[int]:
    scores: dict[int, float] = {}
    while True:
        scores[probe.size] = score_of(probe.size)
        if probe.advance(scores, is_safe, too_large=probe.size >= too_large_from) is None:
            return probe.sizes


def best(probe: Probe, score_of: Callable[[int], float]) -> int | None:
    return probe.best({size: score_of(size) for size in probe.sizes})


def test_growth_doubles_from_the_first_size_until_the_cap():
    probe = Probe(1, highest=100)
    assert sizes_proposed(probe, lambda n: n / 100) == [1, 2, 4, 8, 16, 32, 64, 100]
    assert best(probe, lambda n: n / 100) == 100


def test_growth_is_at_least_one_with_a_small_factor():
    # round(1 * 1.5) = 2, round(2 * 1.5) = 3, round(3 * 1.5) = 4 (4.5 to even), 6, 9
    assert sizes_proposed(Probe(1, highest=9, growth_factor=1.5), lambda n: n / 10) == [1, 2, 3, 4, 6, 9]


def test_growth_stops_after_max_probing_attempts():
    assert sizes_proposed(Probe(1, highest=256, max_attempts=5), lambda n: n / 256) == [1, 2, 4, 8, 16]


def test_bisection_follows_the_95_percent_rule():
    # 64 scores 0.55 < 0.8 * 0.75, so growth ends there. Bisection between 32 (best) and 64, accepted above 0.7125:
    # 48 no -> (32, 48); 40 yes -> (40, 48); 44 no -> (40, 44); 42 yes -> (42, 44); 43 yes, and the ends have met.
    scores = {1: 0.2, 2: 0.35, 4: 0.5, 8: 0.6, 16: 0.7, 32: 0.75, 64: 0.55}
    scores |= {48: 0.70, 40: 0.73, 44: 0.71, 42: 0.72, 43: 0.715}
    probe = Probe(1, highest=256)
    assert sizes_proposed(probe, scores.__getitem__) == [1, 2, 4, 8, 16, 32, 64, 48, 40, 44, 42, 43]
    assert best(probe, scores.__getitem__) == 32


def test_bisection_finds_a_better_size_between():
    def score_of(size: int) -> float:
        return 1.0 - abs(size - 48) / 64

    probe = Probe(1, highest=256)
    # 32 and 64 score 0.75 and 128 nothing, so the ends are 32 and 128: 80 scores 0.5, no; 56 scores 0.875, yes, and
    # is best; then 0.831 is needed: 68 (0.69), 62 (0.78) and 59 (0.828) miss it.
    assert sizes_proposed(probe, score_of)[-6:] == [128, 80, 56, 68, 62, 59]
    assert best(probe, score_of) == 56


def test_a_drop_does_not_stop_growth_before_the_third_attempt():
    # 2 scores half of 1, and growth goes on; 4 is the third attempt and below 0.8 of the best.
    scores = {1: 0.8, 2: 0.4, 4: 0.4, 8: 0.9}
    assert sizes_proposed(Probe(1, highest=8), scores.__getitem__) == [1, 2, 4]


def test_five_bisections_at_most():
    # 512 drops; between 256 and 512 there would be eight halvings.
    probe = Probe(128, highest=10_000)
    assert sizes_proposed(probe, lambda n: n / 1000 if n < 512 else 0.1) == [128, 256, 512, 384, 448, 480, 496, 504]
    assert probe.bisections == MAX_BISECTIONS


def test_a_plateau_up_to_the_cap_needs_no_bisection():
    probe = Probe(1, highest=64)
    assert sizes_proposed(probe, lambda n: min(n, 16) / 20) == [1, 2, 4, 8, 16, 32, 64]
    assert best(probe, lambda n: min(n, 16) / 20) == 16


def test_growth_stops_where_memory_is_unsafe_and_bisects_only_safe_sizes():
    # 32 is unsafe; bisection between 16 and 32 measures what is safe: 24 is not, 20 is, 22 is, 23 is.
    sizes = sizes_proposed(Probe(1, highest=256), lambda n: n / 256, is_safe=lambda size: size < 24)
    assert sizes == [1, 2, 4, 8, 16, 20, 22, 23]


def test_growth_ends_when_the_batch_size_no_longer_restricts():
    probe = Probe(8, highest=256)
    assert probe.advance({8: 0.5}, lambda size: True, size_restricts=False) is None
    assert probe.best({8: 0.5}) == 8


def test_a_size_that_could_not_be_measured_is_passed_over():
    probe = Probe(1, highest=4)
    assert probe.advance({}, lambda size: True) == 2
    assert probe.advance({2: 0.5}, lambda size: True) == 4
    assert probe.advance({2: 0.5, 4: 0.6}, lambda size: True) is None
    assert probe.best({2: 0.5, 4: 0.6}) == 4


def test_no_acceptable_size_is_no_result():
    probe = Probe(1, highest=2)
    sizes_proposed(probe, lambda n: 0.0)
    assert best(probe, lambda n: 0.0) is None


def test_a_first_size_that_is_too_large_is_left_downwards_until_one_is_acceptable():
    # 64 and 32 take too long, 16 does not: smaller ones are not asked, the edge between 16 and 32 is.
    sizes = sizes_proposed(Probe(64, highest=256), lambda n: n / 100 if n < 20 else 0.0, too_large_from=20)
    assert sizes == [64, 32, 16, 24, 20, 18, 19]


def test_a_first_size_beyond_the_peak_is_left_downwards_while_scores_rise():
    def score_of(size: int) -> float:
        return max(0.1, 0.8 - 0.06 * abs(size - 4))

    # 16, the first larger one, is worse, so is 32 (the third attempt): down to 4, which leads, and 2, which does not.
    probe = Probe(8, highest=256)
    assert sizes_proposed(probe, score_of)[:5] == [8, 16, 32, 4, 2]
    assert best(probe, score_of) == 4


def test_a_first_size_whose_larger_ones_are_no_worse_is_not_left_downwards():
    assert min(sizes_proposed(Probe(8, highest=256), lambda n: 0.5)) == 8


def test_the_probe_never_goes_below_its_lowest_size():
    assert sizes_proposed(Probe(8, highest=256, lowest=3), lambda n: 0.0, too_large_from=1) == [8, 4, 3]


def test_a_larger_size_that_is_too_large_ends_growth_at_once():
    sizes = sizes_proposed(Probe(8, highest=256), lambda n: n / 100 if n < 12 else 0.0, too_large_from=12)
    assert sizes == [8, 16, 12, 10, 11]


def test_a_size_below_which_nothing_can_help_is_not_left_downwards():
    # Too little throughput or utilisation: a smaller batch has less of both.
    assert sizes_proposed(Probe(8, highest=16), lambda n: 0.0) == [8, 16]


@given(
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(8, 600),
    st.floats(1.01, 4.0),
    st.integers(1, 20),
    st.dictionaries(st.integers(1, 600), st.floats(0.0, 1.0)),
    st.integers(1, 600),
)
def test_the_probe_always_ends_within_its_bounds(lowest, above, highest, factor, attempts, scores, unsafe_from):
    first = min(lowest + above, highest)
    probe = Probe(first, highest, lowest=lowest, growth_factor=factor, max_attempts=attempts)
    sizes = sizes_proposed(probe, lambda n: scores.get(n, n / 600), is_safe=lambda n: n < unsafe_from)
    assert len(sizes) <= attempts + MAX_BISECTIONS
    assert len(set(sizes)) == len(sizes)
    assert all(lowest <= size <= highest for size in sizes)
    assert all(size < unsafe_from for size in sizes if size > first)
    winner = best(probe, lambda n: scores.get(n, n / 600))
    if winner is not None:
        assert scores.get(winner, winner / 600) == max(scores.get(n, n / 600) for n in sizes)
