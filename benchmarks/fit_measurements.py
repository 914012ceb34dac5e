"""How well is step latency modelled? On the measured Llama-2-70B, and on synthetic steps as in the documents' table.

    python benchmarks/fit_measurements.py [--measurements FILE] [--entries]

Measured: every model on tensor parallel 4, decode and prefill together; each loss; tensor parallel 2, whose rows of 64
requests are outliers, with and without the robust loss. Synthetic: steps drawn from the saturation model with noise
while the device slows down, which only a model refitted forward in time can follow. `--entries` prints the catalogue's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from batchpilot.configs import device, model
from batchpilot.latency import SaturationParameters
from batchpilot.latency.fitting.judging import (
    TRAINED_BATCH_SIZE,
    TRAINED_TOKENS,
    Comparison,
    compare,
    judge,
    trained_range,
)
from batchpilot.latency.fitting.measurement_files import read_measurements
from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.regressor import LatencyRegressor
from batchpilot.latency.fitting.regressors import GivenRegressor, make_regressor
from batchpilot.latency.fitting.residuals import LOSSES
from batchpilot.latency.fitting.saturation_fit import fit
from batchpilot.latency.model.roofline import roofline

DEVICES = ("A100-80GB", "H100-80GB")
MODEL = "Llama-2-70B"
LONGEST_MS = 60_000.0
MEASURED_ON = "2026-11-20"
SOURCE = "splitwise-sim (MIT), Patel et al., ISCA 2024: Llama-2-70B step times"

PUBLISHED = {
    "linear": (0.73, 12.5, 8.2, 0.45),
    "polynomial": (0.85, 9.1, 6.4, 0.38),
    "saturation": (0.94, 5.8, 3.9, 0.22),
    "adaptive saturation": (0.97, 4.2, 2.8, 0.16),
}
"""Of the throughput saturation document: R2, RMSE ms, MAE ms, relative error in extrapolation."""

Maker = Callable[[], LatencyRegressor]


def steps(path: Path, name: str, tensor_parallel: int) -> Observations:
    select = {"device": name, "tensor_parallel": str(tensor_parallel)}
    return read_measurements(path, select=select).observations.cleaned(highest_ms=LONGEST_MS)[0]


def candidates(name: str, tensor_parallel: int) -> list[Maker]:
    estimate = roofline(device(name), model(MODEL), tensor_parallel).parameters
    makers: list[Maker] = [
        lambda kind=kind, options=options: make_regressor(kind, **options)
        for kind in ("linear", "polynomial")
        for options in ({}, {"loss": "relative"}, {"loss": "relative", "context": True})
    ]
    return [
        *makers,
        lambda: GivenRegressor("roofline (not fitted)", estimate),
        lambda: make_regressor("bottleneck"),
        lambda: make_regressor("gaussian process"),
        lambda: make_regressor("saturation", name="saturation without C", fixed={"tau_c": 0.0}),
        lambda: make_regressor("saturation"),
    ]


def by_point(predicted: np.ndarray, observed: Observations) -> float:
    """Mean relative error with each different step counted once, however often it was repeated."""
    relative = np.abs(predicted / observed.latency_ms - 1)
    return float(np.mean(np.bincount(observed.points, relative) / np.bincount(observed.points)))


def percent(value: float) -> str:
    return f"{100 * value:7.1f} %"


def comparison_line(comparison: Comparison, prefill: float, decode: float) -> str:
    cells = [comparison.fitted.mape, prefill, decode]
    for judgement in (comparison.forward, comparison.inside, comparison.beyond):
        cells.append(judgement.mape if judgement else float("nan"))
    whole = comparison.fitted
    return (
        f"{comparison.name:26s}{''.join(map(percent, cells))}{percent(whole.p95_error)} {whole.r2:7.3f}"
        f" {whole.rmse_ms:8.1f} {whole.mae_ms:8.1f} {whole.shapiro_p:8.0e}"
    )


def measured_table(path: Path, name: str, tensor_parallel: int) -> None:
    observed = steps(path, name, tensor_parallel)
    prefill = observed.context_tokens == 0
    print(f"\n{MODEL} on {tensor_parallel} x {name}: {len(observed)} steps, {observed.points.max() + 1} different")
    print(
        f"{'mean relative error':26s}{'all':>9s}{'prefill':>9s}{'decode':>9s}{'forward':>9s}{'inside':>9s}"
        f"{'beyond':>9s}{'p95':>9s} {'R2':>7s} {'RMSE ms':>8s} {'MAE ms':>8s} {'Shapiro':>8s}"
    )
    for make in candidates(name, tensor_parallel):
        predicted = make().fit(observed).predict(observed)
        parts = [judge(predicted[mask], observed.latency_ms[mask]).mape for mask in (prefill, ~prefill)]
        print(comparison_line(compare(make, observed), *parts))
    predicted = make_regressor("saturation").fit(observed).predict(observed)
    print(f"saturation, each different step counted once: {percent(by_point(predicted, observed)).strip()}")
    off = predicted / observed.latency_ms - 1
    worst = np.argsort(-np.bincount(observed.points, np.abs(off)) / np.bincount(observed.points))[:6]
    for point in worst:
        rows = np.flatnonzero(observed.points == point)
        B, S, C = (int(x[rows[0]]) for x in (observed.batch_size, observed.tokens, observed.context_tokens))
        print(
            f"    B {B:2d}, S {S:5d}, C {C:5d}: measured {observed.latency_ms[rows].mean():7.0f} ms, "
            f"predicted {100 * off[rows].mean():+5.1f} %"
        )


def loss_table(path: Path) -> None:
    print("\nEach loss, tensor parallel 4: mean relative error of all, prefill, decode, and R2")
    for name in DEVICES:
        observed = steps(path, name, 4)
        prefill = observed.context_tokens == 0
        for loss in LOSSES:
            for robust in (False, True):
                predicted = make_regressor("saturation", loss=loss, robust=robust).fit(observed).predict(observed)
                parts = [
                    judge(predicted[rows], observed.latency_ms[rows]) for rows in (prefill | True, prefill, ~prefill)
                ]
                print(
                    f"{name:10s} {loss:11s}{'robust' if robust else '':7s}"
                    f"{''.join(percent(part.mape) for part in parts)} {parts[0].r2:7.3f}"
                )


def outlier_table(path: Path) -> None:
    print("\nTensor parallel 2: error on the steps of up to 32 requests, by what was fitted")
    for name in DEVICES:
        observed = steps(path, name, 2)
        sound = observed.batch_size < 64
        for loss in LOSSES:
            for fitted_on, rows in (("all", sound | True), ("without 64", sound)):
                for robust in (False, True):
                    regressor = make_regressor("saturation", loss=loss, robust=robust).fit(observed[rows])
                    error = judge(regressor.predict(observed[sound]), observed.latency_ms[sound]).mape
                    p = regressor.result.parameters
                    print(
                        f"{name:10s} {loss:11s}{fitted_on:11s}{'robust' if robust else '':7s}{percent(error)}"
                        f"   p_max {p.p_max:9.2f}  k_b {p.k_b:8.4f}  k_s {p.k_s:.4f}  tau_0 {p.tau_0:5.1f}"
                    )


def synthetic(rng: np.random.Generator, count: int) -> Observations:
    """Steps of up to 64 requests and 2048 tokens, off by 3.5 ms, on a device that slows by 15 % meanwhile."""
    truth = SaturationParameters(p_max=60.0, k_b=0.3, k_s=0.01, w_0=20.0, tau_0=8.0, tau_b=0.3, tau_s=0.01)
    B, S = rng.integers(1, 65, count), rng.integers(1, 2049, count)
    latency_ms = truth.predict(B, S) * np.linspace(1.0, 1.15, count) + 3.5 * rng.standard_normal(count)
    return Observations.of(B, S, np.maximum(latency_ms, 1.0))


def adaptive(observed: Observations, first: int, trained_on: np.ndarray) -> np.ndarray:
    """The steps from `first` on, each hundred predicted by a fit to those of the thousand before that may be used."""
    predicted, parameters = [], None
    for start in range(first, len(observed), 100):
        before, block = slice(start - 1000, start), observed[start : start + 100]
        past = observed[before][trained_on[before]]
        parameters = fit(past, start=parameters, random=0 if parameters else 48).parameters
        predicted.append(parameters.predict(block.batch_size, block.tokens))
    return np.concatenate(predicted)


def synthetic_table() -> None:
    observed = synthetic(np.random.default_rng(0), 4000)
    half = len(observed) // 2
    early, later = observed[:half], observed[half:]
    near = trained_range(observed)
    far = (later.batch_size > TRAINED_BATCH_SIZE) & (later.tokens > TRAINED_TOKENS)
    rows = {
        name: (
            make_regressor(name).fit(early).predict(later),
            make_regressor(name).fit(early[near[:half]]).predict(later),
        )
        for name in ("linear", "polynomial", "saturation")
    }
    rows["adaptive saturation"] = (adaptive(observed, half, near | True), adaptive(observed, half, near))
    print(
        "\nSynthetic: the later half of 4000 steps of the model, 3.5 ms of noise, the device slowing by 15 %; fitted "
        "on the earlier half,\nor refitted every 100 steps (adaptive). Beyond: mean relative error at B > 32, "
        "S > 1024, fitted on B <= 32, S <= 1024"
    )
    print(f"{'':22s}{'R2':>7s}{'RMSE':>8s}{'MAE':>8s}{'beyond':>9s}   published: R2, RMSE, MAE, beyond")
    for name, (predicted, beyond) in rows.items():
        whole = judge(predicted, later.latency_ms)
        error = judge(beyond[far], later.latency_ms[far]).mape
        print(
            f"{name:22s}{whole.r2:7.2f}{whole.rmse_ms:8.1f}{whole.mae_ms:8.1f}{error:9.2f}   "
            + "{:.2f} {:5.1f} {:4.1f} {:.2f}".format(*PUBLISHED[name])
        )


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def entries(path: Path) -> str:
    found = []
    for name in DEVICES:
        for tensor_parallel in (2, 4):
            observed = steps(path, name, tensor_parallel)
            left_out = ""
            if tensor_parallel == 2:
                observed = observed[observed.batch_size < 64]
                left_out = "; without its rows of 64 requests, which did not run as one batch"
            parameters = fit(observed).parameters
            parameters = SaturationParameters(**{key: rounded(value) for key, value in parameters.to_dict().items()})
            predicted = parameters.predict(observed.batch_size, observed.tokens, observed.context_tokens)
            found.append(
                {
                    "device": name,
                    "model": MODEL,
                    "tensor_parallel": tensor_parallel,
                    "dtype": "fp16",
                    "parameters": parameters.to_dict(),
                    "kind": "measured",
                    "source": SOURCE + left_out,
                    "points": len(observed),
                    "mean_relative_error": rounded(judge(predicted, observed.latency_ms).mape),
                    "measured_on": MEASURED_ON,
                }
            )
    return yaml.safe_dump({"entries": found}, sort_keys=False, width=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measurements", type=Path, default=Path("../shared/measurements/splitwise_llama2_70b.csv"))
    parser.add_argument("--entries", action="store_true", help="print the catalogue's entries and nothing else")
    options = parser.parse_args()
    if options.entries:
        print(entries(options.measurements), end="")
        return
    if options.measurements.exists():
        for name in DEVICES:
            measured_table(options.measurements, name, 4)
        loss_table(options.measurements)
        outlier_table(options.measurements)
    else:
        print(f"no measurements at {options.measurements}: only the synthetic table")
    synthetic_table()


if __name__ == "__main__":
    main()
