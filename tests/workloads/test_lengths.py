import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from batchpilot.workloads import (
    FITTED_LENGTHS,
    Knots,
    Lengths,
    LogNormal,
    Uniform,
    estimate_outputs,
    fit_lengths,
    fixed_lengths,
    read_trace,
)

PERCENTILES = [10, 25, 50, 75, 90, 99]
DISTRIBUTIONS = {
    "fixed": fixed_lengths(100, 20),
    "uniform": Lengths(Uniform(10, 500), (Uniform(1, 64),)),
    "lognormal": Lengths(LogNormal(300.0, 1.0, 16, 4096), (LogNormal(80.0, 0.7),)),
    "capped": Lengths(Uniform(10, 500), (Uniform(1, 64),), max_prompt_tokens=100, max_output_tokens=8),
    **FITTED_LENGTHS,
}


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("lengths", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_means_agree_with_the_sample(lengths):
    prompt, output = lengths.sample(100_000, rng())
    assert lengths.means() == pytest.approx((prompt.mean(), output.mean()), rel=0.03)


@pytest.mark.parametrize("lengths", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_lengths_are_whole_and_at_least_one(lengths):
    for tokens in lengths.sample(5000, rng()):
        assert tokens.dtype == np.int64
        assert tokens.min() >= 1


@pytest.mark.parametrize("lengths", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_a_seed_fixes_every_length(lengths):
    first, again = lengths.sample(100, rng(3)), lengths.sample(100, rng(3))
    assert np.array_equal(first, again)


def test_fixed_lengths_are_all_alike():
    prompt, output = fixed_lengths(123, 45).sample(50, rng())
    assert set(prompt) == {123}
    assert set(output) == {45}


def test_uniform_reaches_both_bounds_equally_often():
    prompt, _ = Lengths(Uniform(1, 4), (Uniform(1, 1),)).sample(40_000, rng())
    assert np.bincount(prompt)[1:] / len(prompt) == pytest.approx([0.25] * 4, abs=0.02)


def test_lognormal_has_its_median_and_stays_within_its_bounds():
    prompt, _ = Lengths(LogNormal(300.0, 1.5, 64, 2048), (Uniform(1, 1),)).sample(20_000, rng())
    assert np.median(prompt) == pytest.approx(300, rel=0.05)
    assert (prompt.min(), prompt.max()) == (64, 2048)


def test_a_cap_shortens_only_what_is_longer():
    free = FITTED_LENGTHS["azure-conv"]
    capped = Lengths(free.prompt, free.outputs, max_prompt_tokens=1000, max_output_tokens=100)
    for whole, cut, cap in zip(free.sample(2000, rng()), capped.sample(2000, rng()), (1000, 100), strict=True):
        assert np.array_equal(np.minimum(whole, cap), cut)


@given(levels=st.lists(st.floats(0.001, 0.999), min_size=1, max_size=20))
def test_quantiles_never_fall_as_the_level_rises(levels):
    ordered = np.sort(np.array(levels))
    for marginal in (Uniform(3, 99), LogNormal(50.0, 0.8), Knots((0.0, 0.2, 1.0), (1, 50, 60))):
        assert (np.diff(marginal.quantile(ordered)) >= 0).all()


@given(bands=st.integers(1, 6), seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_a_fit_stays_within_the_observed_range(bands, seed):
    prompt = rng(seed).integers(1, 1000, 200)
    output = rng(seed + 1).integers(1, 100, 200)
    fitted = fit_lengths(prompt, output, bands=bands, prompt_levels=(0.0, 0.5, 1.0), output_levels=(0.0, 0.5, 1.0))
    for observed, drawn in zip((prompt, output), fitted.sample(500, rng(seed)), strict=True):
        assert observed.min() <= drawn.min()
        assert drawn.max() <= observed.max()


def test_bands_keep_a_dependence_that_no_correlation_can_say():
    prompt = np.arange(1, 3001)
    output = np.where((prompt > 1000) & (prompt <= 2000), 400, 50)
    fitted = fit_lengths(prompt, output, bands=3, prompt_levels=(0.0, 1.0), output_levels=(0.0, 0.5, 1.0))
    drawn_prompt, drawn_output = fitted.sample(3000, rng())
    middle = (drawn_prompt > 1010) & (drawn_prompt < 1990)
    assert set(drawn_output[middle]) == {400}
    assert set(drawn_output[(drawn_prompt < 990) | (drawn_prompt > 2010)]) == {50}


def test_a_fit_without_enough_requests_is_refused():
    with pytest.raises(ValueError, match="1 <= bands <= requests"):
        fit_lengths([1, 2], [1, 2], bands=3, prompt_levels=(0.0, 1.0), output_levels=(0.0, 1.0))


@pytest.mark.parametrize("name", ["conv", "code"])
def test_fitted_lengths_reproduce_the_published_trace(azure_trace, name):
    trace = read_trace(azure_trace(name), "azure2023")
    drawn = FITTED_LENGTHS[f"azure-{name}"].sample(100_000, rng())
    for observed, sampled in zip((trace.prompt_tokens, trace.output_tokens), drawn, strict=True):
        wanted = np.percentile(observed, PERCENTILES)
        assert np.percentile(sampled, PERCENTILES) == pytest.approx(wanted, rel=0.08, abs=1.5)
        assert sampled.mean() == pytest.approx(observed.mean(), rel=0.06)
    wanted = spearmanr(trace.prompt_tokens, trace.output_tokens).statistic
    assert spearmanr(*drawn).statistic == pytest.approx(wanted, abs=0.04)


@pytest.mark.parametrize("name", ["conv", "code"])
def test_fitted_knots_are_what_the_fit_gives(azure_trace, name):
    trace = read_trace(azure_trace(name), "azure2023")
    shipped = FITTED_LENGTHS[f"azure-{name}"]
    fitted = fit_lengths(
        trace.prompt_tokens,
        trace.output_tokens,
        bands=len(shipped.outputs),
        prompt_levels=shipped.prompt.levels,
        output_levels=shipped.outputs[0].levels,
    )
    assert fitted == shipped


def test_conversation_outputs_peak_for_prompts_of_middle_length(azure_trace):
    trace = read_trace(azure_trace("conv"), "azure2023")
    for prompt, output in (
        (trace.prompt_tokens, trace.output_tokens),
        FITTED_LENGTHS["azure-conv"].sample(50_000, rng()),
    ):
        medians = [np.median(output[(prompt >= low) & (prompt < low + 200)]) for low in (300, 1050, 3000)]
        assert medians[1] > 3 * max(medians[0], medians[2])


def test_the_length_predictor_errs_by_the_stated_factor_and_not_in_the_median():
    truth = np.full(50_000, 200, dtype=np.int64)
    ratio = estimate_outputs(truth, rng()) / truth
    assert np.median(ratio) == pytest.approx(1.0, abs=0.02)
    assert np.log(ratio).std() == pytest.approx(0.5, abs=0.02)


def test_a_predictor_without_error_is_an_oracle():
    truth = np.array([1, 50, 999])
    assert np.array_equal(estimate_outputs(truth, rng(), sigma=0.0), truth)


def test_a_negative_predictor_error_is_refused():
    with pytest.raises(ValueError, match="sigma is -1"):
        estimate_outputs(np.array([1]), rng(), sigma=-1.0)


@pytest.mark.parametrize("make", [lambda: Uniform(0, 5), lambda: Uniform(9, 5), lambda: LogNormal(0.0, 1.0)])
def test_a_marginal_with_impossible_bounds_is_refused(make):
    with pytest.raises(ValueError, match="need"):
        make()
