"""`plan --growth`: reading growth as typed or from past rates, and its table."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from batchpilot.latency.planning.growth import SURE, Growth, Month, fit_growth
from batchpilot.runners.report.grids import Cell, Grid, number

COLUMNS = ("date", "rate_per_s")
_DAYS = 365.25 / 12


def parse_growth(text: str, rate_per_s: float | None) -> Growth:
    """Growth a month as typed, `8%` or `0.08`, or fitted to a CSV file of past rates.

    Args:
        text: as typed.
        rate_per_s: the rate now, which a file tells itself.

    Raises:
        ValueError: neither a number nor such a file, or the rate is missing or given twice.
        OSError: the file cannot be read.
    """
    typed = text.strip()
    try:
        monthly = float(typed.removesuffix("%")) / (100.0 if typed.endswith("%") else 1.0)
    except ValueError:
        if rate_per_s is not None:
            raise ValueError(f"--rate is given, and {text} tells the rate as well; leave one out") from None
        return fit_growth(*_past(Path(text)))
    if rate_per_s is None:
        raise ValueError(f"--growth {text} needs --rate, the rate of now; or give a CSV file of past rates")
    return Growth(rate_per_s, monthly)


def _past(path: Path) -> tuple[list[float], list[float]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path}: the first line must be {','.join(COLUMNS)}, each further one 2026-03-01,12.5")
        months, rates = [], []
        for line, row in enumerate(reader, start=2):
            try:
                months.append(date.fromisoformat(row["date"]).toordinal() / _DAYS)
                rates.append(float(row["rate_per_s"]))
            except (TypeError, ValueError):
                raise ValueError(f"{path}, line {line}: not of the form 2026-03-01,12.5") from None
    return months, rates


def growth_line(growth: Growth) -> str:
    """What is believed of the growth, in a sentence.

    Args:
        growth: the growth.
    """
    if math.isinf(growth.freedom):
        return f"{growth.monthly:+.1%} a month from {growth.rate_per_s:.3g} requests/s, as given"
    return (
        f"{growth.monthly:+.1%} a month from {growth.rate_per_s:.3g} requests/s, fitted; planned for what a month "
        f"stays below with {SURE:.0%}"
    )


def growth_grid(plan: Sequence[Month], devices_per_engine: int, growth: Growth) -> Grid:
    """Months in which something changes, and the last.

    Args:
        plan: every month.
        devices_per_engine: devices of an engine.
        growth: the growth.
    """
    told = [month for month in plan if month.added or month is plan[-1]]
    rows = []
    for month in told:
        due = "" if not month.added else "now" if month.order_by <= 0 else f"in {month.order_by:.3g} months"
        if month.added and month.order_by < 0 and month.month > 1:
            due = f"now, {-month.order_by:.3g} months late"
        cost = ("-", "-") if math.isnan(month.usd) else (number(month.usd), number(month.usd_so_far))
        cells = (
            f"{month.month}",
            f"{month.expected_per_s:.3g}",
            f"{month.planned_per_s:.3g}",
            f"{month.added * devices_per_engine:+d}" if month.added else "",
            f"{month.engines * devices_per_engine}",
            due,
            *cost,
        )
        rows.append(tuple(Cell(text) for text in cells))
    columns = (
        "month",
        "expected\nrequests/s",
        "planned\nfor",
        "devices\nadded",
        "devices",
        "order by",
        "$ a month",
        "$ so far",
    )
    return Grid("When to add what?", columns, tuple(rows), growth_line(growth))
