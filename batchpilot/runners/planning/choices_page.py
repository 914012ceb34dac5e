"""Ways to serve a load as tables and as a picture: what each costs and needs, and why some cannot."""

from __future__ import annotations

from collections.abc import Sequence

from batchpilot.runners.planning.choosing import Choice, Refused, pareto
from batchpilot.runners.report.grids import ABSENT, Cell, Grid
from batchpilot.runners.report.svg import INK, MUTED, drawing, to_svg

MOST_ROWS = 24

_MEASURED, _ESTIMATED = "#0072b2", "#d55e00"


def choices_grid(choices: Sequence[Choice], most: int = MOST_ROWS) -> Grid:
    """What each way needs and costs, the cheapest first.

    Args:
        choices: in that order.
        most: rows at most.
    """
    front = pareto(choices)
    rows = tuple(_row(choice, best=choice in front) for choice in choices[:most])
    load = choices[0].rate_per_s
    caption = (
        "Cost of a million output tokens and energy of one (a model), idle devices included. "
        "* no other is both cheaper and of fewer devices. "
        "~ rate by the closed form, not simulated. Estimated: by the roofline. Another type is another checkpoint, "
        "whose answers differ."
    )
    if len(choices) > most:
        caption += f" {len(choices) - most} dearer ways are left out; --json has them."
    title = "Which devices?" if load is None else f"Which devices serve {load:g} requests/s?"
    figures = ("requests/s\nan engine", "engines", "devices", "$ a device\nhour", "$ a million", "J a token")
    return Grid(title, ("", "type", "latency", *figures, "bound by"), rows, caption)


def refused_grid(refused: Sequence[Refused], choices: Sequence[Choice]) -> Grid:
    """Devices and types that cannot serve the load in any group, and why.

    Args:
        refused: ways that cannot.
        choices: ways that can.
    """
    served = {(choice.question.device.name, choice.question.dtype) for choice in choices}
    groups: dict[tuple[str, str], list[Refused]] = {}
    for one in refused:
        groups.setdefault((one.device, one.dtype), []).append(one)
    rows = tuple(
        (
            Cell(f"{', '.join(str(one.tensor_parallel) for one in group)} x {device}, {dtype}"),
            Cell(f"{group[-1].tensor_parallel} x: {group[-1].reason.rpartition(': ')[2]}"),
        )
        for (device, dtype), group in groups.items()
        if (device, dtype) not in served
    )
    caption = "The reason is that of the largest group. Smaller groups of what does serve it are in --json."
    return Grid("What does not serve it, and why", ("", "reason"), rows, caption)


def choices_chart(choices: Sequence[Choice]) -> str:
    """Cost against devices, and the ways that no other beats in both.

    Args:
        choices: the cheapest first; those without a price are not drawn.

    Returns:
        One `<svg>` element.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    priced = [(choice, cost) for choice in choices if (cost := choice.usd_per_million) is not None]
    front = pareto([choice for choice, _ in priced])
    with drawing():
        drawn = Figure(figsize=(8.4, 4.2))
        axes = drawn.add_subplot()
        for kind, colour, marker in (("measured", _MEASURED, "o"), ("estimated", _ESTIMATED, "^")):
            some = [pair for pair in priced if pair[0].question.latency.provenance.startswith(kind)]
            if some:
                needed, costs = [one.devices for one, _ in some], [cost for _, cost in some]
                axes.plot(needed, costs, marker, color=colour, alpha=0.6, label=f"latency {kind}")
        best = [(one, cost) for one, cost in priced if one in front]
        needed, costs = [one.devices for one, _ in best], [cost for _, cost in best]
        axes.plot(needed, costs, color=INK, linewidth=1, label="no other is cheaper with as few devices")
        for place, (one, cost) in enumerate(best):
            name = f"{one.question.layout}, {one.question.dtype}"
            under = (6, -12 - 14 * place)
            axes.annotate(name, (one.devices, cost), under, textcoords="offset points", color=MUTED)
        axes.set(xscale="log", yscale="log")
        axes.margins(y=0.2)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_xlabel("Devices needed")
        axes.set_ylabel("$ per million output tokens")
        axes.set_title(title := "What does it cost, and how many devices does it take?")
        axes.legend(loc="best")
        return to_svg(drawn, "choices", title)


def _row(choice: Choice, *, best: bool) -> tuple[Cell, ...]:
    question, cost = choice.question, choice.usd_per_million
    texts = (
        f"{question.layout}{' *' if best else ''}",
        question.dtype,
        question.latency.provenance.partition(":")[0],
        f"{'' if choice.simulated else '~'}{choice.engine.rate_per_s:.3g}",
        str(choice.engines),
        str(choice.devices),
        ABSENT if choice.usd_per_hour is None else f"{choice.usd_per_hour:.2f}",
        ABSENT if cost is None else f"{cost:.3g}",
        ABSENT if choice.joules_per_token is None else f"{choice.joules_per_token:.3g}",
        choice.plan.bound_by,
    )
    return tuple(Cell(text, best=best) for text in texts)
