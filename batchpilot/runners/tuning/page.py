"""What `tune` found as tables and as a page: how fast it converged, which limits matter, what to paste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchpilot.core.files import write_atomic
from batchpilot.runners.report.grids import ABSENT, Cell, Grid, number
from batchpilot.runners.report.page import definitions, element, figure, items, page, table
from batchpilot.runners.report.svg import INK, MUTED, drawing, to_svg
from batchpilot.runners.tuning.limit_chart import limit_chart
from batchpilot.runners.tuning.result import DEFAULT, GRID_BEST, MEANINGS, STATIC_BEST, TUNED, Tuned, best_so_far

_BLUE, _ORANGE = "#0072b2", "#d55e00"
_REFERENCE_DASHES = {DEFAULT: (0, (1, 1.5)), GRID_BEST: (0, (5, 2)), STATIC_BEST: (0, (9, 3))}


def write_tune_page(
    path: Path,
    title: str,
    found: Tuned,
    *,
    verdict: str,
    objective: str,
    pasted: Mapping[str, str],
    notes: Sequence[str],
    provenance: Mapping[str, Any],
) -> Path:
    """Write the page.

    Args:
        path: HTML file to write.
        title: its heading.
        found: what was found.
        verdict: in one sentence.
        objective: what was maximised.
        pasted: texts to paste, by what they are for.
        notes: what a reader should know besides.
        provenance: where the figures come from.
    """
    importances = [figure(importance_chart(found))] if found.importances else []
    return write_atomic(
        path,
        page(
            title,
            element("h1", title),
            element("p", verdict, "lead"),
            definitions(pasted),
            *([items(list(notes))] if notes else []),
            table(comparison_grid(found, objective)),
            figure(limit_chart(found, objective)),
            figure(convergence_chart(found, objective)),
            *importances,
            element("h2", "Where the numbers come from"),
            definitions({name: str(value) for name, value in provenance.items()}),
        ),
    )


def comparison_grid(found: Tuned, objective: str) -> Grid:
    """Tuned limits and references on seen and unseen seeds.

    Args:
        found: what was found.
        objective: what was maximised.
    """
    rows = []
    tuned = found.held[TUNED]
    for name, held in found.held.items():
        unseen = ABSENT if held.unseen is None else number(held.unseen, 3)
        ratio = ABSENT
        if tuned.unseen is not None and held.unseen:
            ratio = number(tuned.unseen / held.unseen, 3)
        shown = ABSENT if held.limits is None else str(held.limits)
        texts = (name, number(held.seen, 3), unseen, ratio, shown)
        rows.append(tuple(Cell(text, best=name == TUNED, reference=name != TUNED) for text in texts))
    told = "; ".join(f"{name}: {MEANINGS[name]}" for name in found.held)
    columns = (
        "Setting",
        f"{objective},\nstudy's seeds",
        f"{objective},\nunseen seeds",
        "tuned ÷ it,\nunseen",
        "limits",
    )
    return Grid("What do the tuned limits gain?", columns, tuple(rows), f"{told}.")


def convergence_chart(found: Tuned, objective: str) -> str:
    """Value of every trial, the best so far, and the references as lines.

    Args:
        found: what was found.
        objective: what was maximised.

    Returns:
        One `<svg>` element.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with drawing():
        drawn = Figure(figsize=(8.4, 3.8))
        axes = drawn.add_subplot()
        for kind, marker, colour in (("complete", "o", _BLUE), ("pruned", "x", MUTED)):
            shown = [(t.number + 1, t.value) for t in found.trials if t.state == kind and t.value is not None]
            axes.plot([n for n, _ in shown], [v for _, v in shown], marker, color=colour, ms=4, label=kind)
        reached = [(t.number + 1, b) for t, b in zip(found.trials, best_so_far(found.trials), strict=True) if b]
        axes.step([n for n, _ in reached], [b for _, b in reached], where="post", color=_ORANGE, label="best so far")
        for name, dashes in _REFERENCE_DASHES.items():
            if name in found.held:
                value = found.held[name].seen
                axes.axhline(value, color=INK, linewidth=1, linestyle=dashes, label=f"{name} {value:.3f}")
        axes.set_ylim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("Trial")
        axes.set_ylabel(f"{objective.capitalize()}, mean over the study's seeds")
        axes.set_title(title := "How fast did the search converge?")
        drawn.legend(loc="outside lower left", ncols=3)
        return to_svg(drawn, "convergence", title)


def importance_chart(found: Tuned) -> str:
    """Share of each limit in what made trials differ.

    Args:
        found: what was found, with importances.

    Returns:
        One `<svg>` element.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    names = list(found.importances)
    with drawing():
        drawn = Figure(figsize=(8.4, 1.2 + 0.36 * len(names)))
        axes = drawn.add_subplot()
        axes.barh(names, [found.importances[name] for name in names], color=_BLUE, height=0.6)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("Importance (PED-ANOVA over the complete trials)")
        axes.set_title(title := "Which limits matter?")
        return to_svg(drawn, "importances", title)
