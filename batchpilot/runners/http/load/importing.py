"""`batchpilot load --import`: result files of load generators side by side, as traces and as measured steps."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from batchpilot.core.files import write_atomic, write_json
from batchpilot.core.slo import SLO
from batchpilot.runners.http.load.report import figure_grid, figures, lateness
from batchpilot.runners.report.grids import Grid
from batchpilot.runners.stated import promise_text
from batchpilot.runners.torch.calibration import write_steps
from batchpilot.serving.formats.results import ImportedRun, read_results
from batchpilot.serving.formats.results.base import NO_PROMISE
from batchpilot.serving.formats.results.steps import steps_seen
from batchpilot.workloads.table import RequestTable

_ODD = re.compile(r"[^\w.@-]+")
_OWN = "batchpilot load"


@dataclass(frozen=True)
class Imported:
    """Runs of result files, judged by one promise.

    Attributes:
        runs: in the order of the files.
        slo: the promise; None judges by what a file of ours was promised, and nobody else's by any.
    """

    runs: Sequence[ImportedRun]
    slo: SLO | None

    @classmethod
    def of(cls, paths: Sequence[Path], ttft_ms: float | None, tpot_ms: float | None) -> Imported:
        """Read files.

        Args:
            paths: result files or folders of them.
            ttft_ms: promised TTFT, None for none.
            tpot_ms: promised TPOT, None for none.

        Raises:
            ValueError: a file is not known or damaged, or a promise is not above zero.
            OSError: it cannot be opened.
        """
        promised = ttft_ms is not None or tpot_ms is not None
        slo = SLO(ttft_ms or math.inf, tpot_ms or math.inf, "asked") if promised else None
        return cls([run for path in paths for run in read_results(path)], slo)

    @property
    def columns(self) -> dict[str, dict[str, float]]:
        """Figures of each run, by what it is called."""
        names = [f"{run.tool}\n{run.name}" for run in self.runs]
        told: dict[str, dict[str, float]] = {}
        for name, run in zip(names, self.runs, strict=True):
            column = name if name not in told else f"{name} #{1 + sum(one.startswith(name) for one in told)}"
            told[column] = self._figures(run)
        return told

    @property
    def grid(self) -> Grid:
        """The table."""
        return figure_grid(self.columns)

    @property
    def notes(self) -> list[str]:
        """What was corrected and what is not known, a line each."""
        told = []
        for run in self.runs:
            notes = [*run.notes]
            if run.requests is None and self.slo is not None:
                notes.append("It holds no single requests, so no promise can be judged.")
            if run.requests is not None and run.requests.guessed:
                notes.append(f"{run.requests.guessed:,} requests without a length are counted with the median.")
            told += [f"{run.name}: {note}" for note in notes]
        if self.slo is None and any(run.tool != _OWN for run in self.runs):
            told.append("Nothing was promised: goodput counts every complete answer. --ttft-ms and --tpot-ms judge.")
        return told

    def results(self) -> dict[str, Any]:
        """Everything but single requests, for a file and for machines."""
        return {
            "promise": None if self.slo is None else promise_text(self.slo),
            "runs": [
                {"tool": run.tool, "name": run.name, "model": run.model, "notes": list(run.notes), **figures_of}
                for run, figures_of in zip(self.runs, self.columns.values(), strict=True)
            ],
        }

    def write(self, folder: Path) -> list[Path]:
        """Write `imported.json` and, of each run with single requests, a trace and the steps that show in it.

        Args:
            folder: where to.

        Raises:
            OSError: a file cannot be written.
        """
        written = [write_json(folder / "imported.json", self.results())]
        for number, run in enumerate(self.runs, 1):
            if run.requests is None:
                continue
            stem = f"{number}-{_ODD.sub('-', run.name)}"
            table = run.requests.table()
            if run.trace_scale != 1.0:
                table = table.with_arrivals(table.arrival_ms * run.trace_scale)
            written.append(write_atomic(folder / f"{stem}.trace.csv", trace_text(table)))
            try:
                steps = steps_seen(run.requests)
            except ValueError:
                continue
            written.append(write_steps(folder / f"{stem}.steps.csv", steps))
        return written

    def _figures(self, run: ImportedRun) -> dict[str, float]:
        if run.requests is None or (self.slo is None and run.tool == _OWN):
            return dict(run.stated)
        outcome = run.requests.outcome(self.slo or NO_PROMISE, run.elapsed_ms)
        late = run.requests.late_ms[np.isfinite(run.requests.late_ms)]
        return figures(outcome) | (lateness(late) if len(late) else {})


def trace_text(requests: RequestTable) -> str:
    """Requests as `--trace FILE --format csv` reads them.

    Args:
        requests: any.
    """
    columns = np.column_stack([requests.arrival_ms, requests.prompt_tokens, requests.output_tokens])
    lines = [f"{arrival:.3f},{prompt:.0f},{output:.0f}" for arrival, prompt, output in columns]
    header = "arrival_ms,prompt_tokens,output_tokens"
    if requests.images is not None:
        header += ",image_size,image_id"
        shown = zip(requests.images.side_px.tolist(), requests.images.contents().tolist(), strict=True)
        lines = [
            f"{line},{_listed(sides, sides)},{_listed(sides, which)}"
            for line, (sides, which) in zip(lines, shown, strict=True)
        ]
    return "\n".join([header, *lines, ""])


def _listed(sides: Sequence[int], of_each: Sequence[int]) -> str:
    """What there is of each image of a request, between semicolons."""
    return ";".join(str(one) for side, one in zip(sides, of_each, strict=True) if side)
