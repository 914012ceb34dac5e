"""The report of a calibration: one self-contained HTML file that says how long steps take and how sure that is."""

from __future__ import annotations

from pathlib import Path

from batchpilot.core.files import write_atomic
from batchpilot.core.provenance import provenance
from batchpilot.runners.calibration.calibrating import Calibration
from batchpilot.runners.calibration.charts import predicted_chart, residuals_chart, steps_chart
from batchpilot.runners.calibration.grids import models_grid, parameters_grid, verdict
from batchpilot.runners.report.page import definitions, element, figure, items, page, table


def write_calibration_report(path: str | Path, calibration: Calibration) -> Path:
    """Write the report: no script, nothing loaded from outside, every text escaped.

    Args:
        path: where; written whole or not at all.
        calibration: what was found.

    Returns:
        The path written.

    Raises:
        OSError: the file cannot be written; an old one is untouched.
    """
    fitted = calibration.fit
    problems = [element("h2", "Problems"), items(list(fitted.problems))] if fitted.degenerate else []
    origin = {
        "measurements": calibration.source,
        "steps": f"{fitted.observations} ({fitted.points} different)",
        "dropped": str(calibration.dropped),
        "loss": fitted.loss + (", robust" if fitted.robust else ""),
        **{name: str(value) for name, value in provenance().items() if value is not None},
    }
    title = f"Step time of {calibration.title}"
    parts = [
        element("h1", title),
        element("p", verdict(calibration), "lead"),
        *problems,
        table(models_grid(calibration)),
        figure(steps_chart(calibration)),
        figure(predicted_chart(calibration)),
        figure(residuals_chart(calibration)),
        table(parameters_grid(calibration)),
        items([*fitted.notes, *calibration.remarks]),
        element("h2", "Where the numbers come from"),
        definitions(origin),
    ]
    return write_atomic(path, page(title, *parts))
