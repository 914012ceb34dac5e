"""A front as a table, a picture, a page and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from batchpilot.core.files import write_atomic, write_json
from batchpilot.runners.report.grids import Cell, Grid, number
from batchpilot.runners.report.page import definitions, element, figure, page, table
from batchpilot.runners.report.svg import INK, MUTED, drawing, to_svg
from batchpilot.runners.tuning.front import Aim, Tried
from batchpilot.tuners.bayesian.exploring import Exploration

_BLUE = "#0072b2"


def verdict(tried: Sequence[Tried], aims: Sequence[Aim], trials: int) -> str:
    """The result in one sentence.

    Args:
        tried: what `found_front` gave.
        aims: what was aimed at.
        trials: told altogether.
    """
    front = [one for one in tried if one.on_front]
    spans = []
    for k, aim in enumerate(aims):
        values = [one.seen[k] for one in front]
        spans.append(f"{aim.name} {min(values):.3g} to {max(values):.3g} {aim.unit}".rstrip())
    return f"{len(front)} of {trials} tried settings are beaten by none in everything: {', '.join(spans)}."


def front_grid(tried: Sequence[Tried], aims: Sequence[Aim]) -> Grid:
    """The settings of the front and what servers ship.

    Args:
        tried: what `found_front` gave.
        aims: what was aimed at.
    """
    rows = []
    for one in tried:
        unseen = one.unseen or (None,) * len(aims)
        figures = [
            number(here, 3) + ("" if there is None else f" ({number(there, 3)})")
            for here, there in zip(one.seen, unseen, strict=True)
        ]
        rows.append(tuple(Cell(text, reference=not one.on_front) for text in (str(one.limits), *figures)))
    columns = ["Setting"]
    for aim in aims:
        columns.append(f"{aim.shown}\n({'most' if aim.direction == 'maximize' else 'least'} is best)")
    caption = (
        "On the study's seeds, in brackets on unseen ones. Each is better than any other in something; a last row of "
        "what servers ship is a reference."
    )
    return Grid("What does more of one cost of another?", tuple(columns), tuple(rows), caption)


def front_chart(exploration: Exploration, tried: Sequence[Tried], aims: Sequence[Aim]) -> str:
    """Trials by the first two aims, the front as a line; what lies far from it is counted, not drawn.

    Args:
        exploration: the study.
        tried: what `found_front` gave.
        aims: what was aimed at.

    Returns:
        One `<svg>` element.
    """
    from matplotlib.figure import Figure

    with drawing():
        drawn = Figure(figsize=(8.4, 4.2))
        axes = drawn.add_subplot()
        values = [trial.values[:2] for trial in exploration.trials() if trial.values]
        axes.plot(*zip(*values, strict=True), "o", color=MUTED, ms=4, label="tried")
        front = sorted(one.seen[:2] for one in tried if one.on_front)
        line = "-" if len(aims) == 2 else ""
        axes.plot(*zip(*front, strict=True), "o" + line, color=_BLUE, ms=5, label="beaten by none in everything")
        for one in tried:
            if not one.on_front:
                axes.plot(*one.seen[:2], "s", color=INK, ms=6, label="what servers ship")
        (left, right), (low, high) = (_around(along) for along in zip(*front, strict=True))
        axes.set(xlim=(left, right), ylim=(low, high))
        outside = sum(not (left <= x <= right and low <= y <= high) for x, y in values)
        names = [f"{aim.shown}, {'more' if aim.direction == 'maximize' else 'less'} is better" for aim in aims]
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
        title = f"What does {aims[0].name} cost of {aims[1].name}?"
        axes.set_title(f"{title} {outside} of {len(values)} tried lie outside" if outside else title)
        drawn.legend(loc="outside lower left", ncols=3)
        return to_svg(drawn, "front", title)


def _around(values: Sequence[float]) -> tuple[float, float]:
    """A range that shows values, none of them below 0, and as much room again on both sides."""
    low, high = min(values), max(values)
    room = (high - low) or abs(high) or 1.0
    return max(low - room, 0.0), high + room


def write_front(
    folder: Path,
    title: str,
    exploration: Exploration,
    tried: Sequence[Tried],
    aims: Sequence[Aim],
    origin: Mapping[str, Any],
) -> tuple[str, dict[str, Any]]:
    """Write report.html and results.json.

    Args:
        folder: where.
        title: of the report.
        exploration: the study.
        tried: what `found_front` gave.
        aims: what was aimed at.
        origin: where the figures come from.

    Returns:
        The verdict, and what `results.json` holds.

    Raises:
        OSError: a file cannot be written.
    """
    told = verdict(tried, aims, exploration.told)
    names = [aim.name for aim in aims]
    settings = []
    for one in tried:
        seen = dict(zip(names, one.seen, strict=True))
        unseen = None if one.unseen is None else dict(zip(names, one.unseen, strict=True))
        settings.append({**asdict(one), "limits": one.limits.to_dict(), "seen": seen, "unseen": unseen})
    results = {"verdict": told, "objectives": names, "settings": settings, "origin": dict(origin)}
    write_atomic(
        folder / "report.html",
        page(
            title,
            element("h1", title),
            element("p", told, "lead"),
            table(front_grid(tried, aims)),
            figure(front_chart(exploration, tried, aims)),
            element("h2", "Where the numbers come from"),
            definitions({name: str(value) for name, value in origin.items()}),
        ),
    )
    write_json(folder / "results.json", results)
    return told, results
