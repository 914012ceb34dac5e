"""What a calibration's tables say, for a terminal and for its report."""

from __future__ import annotations

import math

from batchpilot.latency.fitting.judging import Judgement
from batchpilot.latency.fitting.residuals import FEASIBLE
from batchpilot.runners.calibration.calibrating import Calibration
from batchpilot.runners.report.grids import ABSENT, Cell, Grid

UNITS: dict[str, str] = {
    "p_max": "tokens/ms",
    "k_b": "1/request",
    "k_s": "1/token",
    "w_0": "tokens",
    "w_1": "",
    "tau_0": "ms",
    "tau_b": "ms/request",
    "tau_s": "ms/token",
    "tau_c": "ms/context token",
    "tau_e": "ms",
    "s_e": "tokens",
}


def models_grid(calibration: Calibration) -> Grid:
    """Every model's errors, side by side; the lowest mean relative error is marked.

    Args:
        calibration: what was found.
    """
    lowest = min(comparison.fitted.mape for comparison in calibration.comparisons)
    rows = []
    for comparison in calibration.comparisons:
        whole = comparison.fitted
        figures = [
            percent(whole.mape),
            *(
                percent(part.mape) if part else ABSENT
                for part in (comparison.forward, comparison.inside, comparison.beyond)
            ),
            percent(whole.p95_error),
            plain(whole.r2, ".3f"),
            plain(whole.rmse_ms, ".1f"),
            plain(whole.mae_ms, ".1f"),
            plain(whole.shapiro_p, ".1g"),
        ]
        best = whole.mape == lowest
        rows.append(tuple(Cell(text, best=best) for text in (comparison.name, *figures)))
    columns = (
        "Model",
        "Mean\nerror",
        "Forward\nin time",
        "Within\nrange",
        "Beyond\nrange",
        "p95\nerror",
        "R2",
        "RMSE ms",
    )
    return Grid(
        f"Which model tells the step time? {calibration.title}",
        (*columns, "MAE ms", "Shapiro\np"),
        tuple(rows),
        "Errors are relative to the measured time. Forward: each sixth predicted from those before it. Range: fitted "
        "on B <= 32, S <= 1024 only and tested there, and beyond. Shapiro: below 0.05 the residuals are not normal.",
    )


def parameters_grid(calibration: Calibration) -> Grid:
    """The parameters with their intervals, and how much each matters.

    Args:
        calibration: what was found.
    """
    fitted = calibration.fit
    rows = []
    for name, value in fitted.parameters.to_dict().items():
        if name not in fitted.free:
            interval, share = "fixed", ABSENT
        else:
            low, high = fitted.intervals[name]
            bound = "lower" if value <= FEASIBLE[name][0] else "upper"
            interval = f"at its {bound} bound" if math.isnan(low) else f"{low:.4g} to {high:.4g}"
            share = f"{100 * fitted.sensitivity[name]:.1f} %"
        rows.append(tuple(map(Cell, (name, f"{value:.5g}", interval, UNITS[name], share))))
    return Grid(
        "Which parameters, and how sure?",
        ("Parameter", "Value", "95 % interval", "Unit", "Weight"),
        tuple(rows),
        "T = tau_0 + (w_0 + w_1*S) / Thr + tau_b*B + tau_s*S + tau_c*C + tau_e*S/(S + s_e) with "
        "Thr = p_max * (1 - exp(-k_b*B)) * (1 - exp(-k_s*S)). "
        "Weight: by how much of itself the step time changes when the parameter doubles, to first order.",
    )


def percent(share: float) -> str:
    """A share in percent, to a tenth.

    Args:
        share: 0.05 is 5 %.
    """
    return ABSENT if math.isnan(share) else f"{100 * share:.1f} %"


def plain(value: float, form: str) -> str:
    """A number in a format, or the sign for none.

    Args:
        value: NaN for none.
        form: as in a format string.
    """
    return ABSENT if math.isnan(value) else format(value, form)


def verdict(calibration: Calibration) -> str:
    """How good the fit is, in a sentence.

    Args:
        calibration: what was found.
    """
    fitted, judgement = calibration.fit, calibration.judgement
    text = (
        f"The saturation model is off by {percent(judgement.mape)} on average and by less than "
        f"{percent(judgement.p95_error)} in 95 of 100 of {fitted.observations} steps ({fitted.points} different)."
    )
    beyond: Judgement | None = calibration.comparisons[-1].beyond
    if beyond is not None:
        text += f" Beyond the range it was fitted on it is off by {percent(beyond.mape)}."
    return text + (" Do not trust these parameters: see the problems." if fitted.degenerate else "")
