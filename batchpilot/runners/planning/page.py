"""A plan as tables and as a page: what to paste, what it holds, where steps may lie, where simulation disagrees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from batchpilot.core.files import write_atomic
from batchpilot.latency.planning.inverse import sla_inverse
from batchpilot.latency.planning.planner import Plan
from batchpilot.runners.pasted import pasted
from batchpilot.runners.planning.held import Simulated
from batchpilot.runners.planning.planned import Question
from batchpilot.runners.report.grids import Cell, Grid
from batchpilot.runners.report.page import definitions, element, figure, page, table
from batchpilot.runners.report.svg import INK, MUTED, drawing, to_svg

_BLUE, _ORANGE = "#0072b2", "#d55e00"
_CURVE_POINTS = 40


def write_plan_page(
    path: Path,
    question: Question,
    chosen: Plan,
    curve: Sequence[Simulated],
    tables: Sequence[Grid],
    provenance: dict[str, Any],
    compared: str = "",
) -> Path:
    """Write the page.

    Args:
        path: HTML file to write.
        question: what was planned for.
        chosen: the plan.
        curve: simulated rates, ascending.
        tables: what the terminal shows.
        provenance: where the figures come from.
        compared: a picture of the ways that were compared, "" where there was one.
    """
    title = f"{question.model.name} on {question.layout}, {question.workload}"
    return write_atomic(
        path,
        page(
            title,
            element("h1", title),
            element("p", verdict(question, chosen), "lead"),
            definitions(pasted(question.of_engine(chosen).limits, question.shared_by)),
            *([figure(compared)] if compared else []),
            *(table(grid) for grid in tables),
            figure(rate_chart(question, chosen, curve)),
            figure(region_chart(question, chosen)),
            element("h2", "Where the numbers come from"),
            definitions({name: str(value) for name, value in (question.stated() | provenance).items()}),
        ),
    )


def verdict(question: Question, chosen: Plan) -> str:
    """The plan in one sentence.

    Args:
        question: what was planned for.
        chosen: the plan.
    """
    rate_per_s = question.of_engine(chosen).rate_per_s
    return (
        f"One engine of {question.layout} holds {rate_per_s:.3g} requests/s "
        f"({chosen.attainment:.0%} within TTFT {chosen.slo.ttft_ms:g} ms and TPOT {chosen.slo.tpot_ms:g} ms); "
        f"bound by {chosen.bound_by}."
    )


def rate_chart(question: Question, chosen: Plan, curve: Sequence[Simulated]) -> str:
    """Attainment against rate: predicted as a line, simulated as points.

    Args:
        question: what was planned for.
        chosen: the plan.
        curve: simulated rates, ascending.

    Returns:
        One `<svg>` element.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    service = question.service(chosen)
    rates = np.linspace(0.05, 1.05, _CURVE_POINTS) * curve[-1].rate_per_s
    predicted = [service.facing(rate / 1000.0).attainment for rate in rates]
    with drawing():
        drawn = Figure(figsize=(8.4, 3.6))
        axes = drawn.add_subplot()
        axes.plot(rates, predicted, color=_BLUE, label="plan")
        simulated = [point.attainment for point in curve]
        worst = [point.attainment - point.worst for point in curve]
        at = [point.rate_per_s for point in curve]
        down = [worst, [0.0] * len(at)]
        axes.errorbar(at, simulated, yerr=down, fmt="o", color=_ORANGE, label="simulation, down to its worst seed")
        axes.axvline(chosen.rate_per_s, color=INK, linewidth=1, label="planned rate")
        axes.axvline(chosen.saturation_per_s, color=MUTED, linestyle=(0, (1, 1.5)), label="saturation")
        axes.axhline(chosen.attainment, color=MUTED, linestyle=(0, (5, 2)), label="wanted")
        axes.set_xlim(0, None)
        axes.set_ylim(min(0.5, *simulated), 1.01)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(f"Requests per second on {question.unit}")
        axes.set_ylabel("Within SLO")
        axes.set_title(title := f"How much can {question.unit} take?")
        axes.legend(loc="lower left")
        return to_svg(drawn, "rate", title)


def region_chart(question: Question, chosen: Plan) -> str:
    """Requests and tokens of a step: what fits into the step target, what the limits let in of that, the usual step.

    Args:
        question: what was planned for.
        chosen: the plan.

    Returns:
        One `<svg>` element.
    """
    from matplotlib.figure import Figure

    limits, parameters = chosen.limits, question.latency.parameters
    sizes = np.arange(1, max(2, round(1.5 * limits.batch_size)) + 1)
    context = sizes * chosen.context_tokens / chosen.batch_size
    target = limits.step_target_ms or chosen.slo.tpot_ms
    fits = sla_inverse(parameters, sizes, target, context, question.max_step_tokens)
    allowed = sizes <= limits.batch_size
    budget = float(fits.max()) if limits.token_budget is None else float(limits.token_budget)
    most = np.maximum(np.minimum(fits, budget), sizes)
    corner = limits.batch_size, budget
    corner_ms = float(parameters.predict(corner[0], max(corner), context[limits.batch_size - 1]))
    with drawing():
        drawn = Figure(figsize=(8.4, 3.8))
        axes = drawn.add_subplot()
        axes.fill_between(sizes, sizes, np.maximum(fits, sizes), color=_BLUE, alpha=0.12, linewidth=0)
        axes.plot(sizes, fits, color=_BLUE, label=f"a step of {target:.3g} ms")
        edge = "what the limits let in, the step target held"
        axes.fill_between(
            sizes[allowed], sizes[allowed], most[allowed], fc="none", ec=INK, lw=1.2, hatch="..", label=edge
        )
        axes.plot([chosen.batch_size], [chosen.step_tokens], "o", color=_ORANGE, label="usual step at the planned rate")
        without = f"batch_size and token_budget alone: up to {corner_ms:.3g} ms"
        axes.plot(*([value] for value in corner), "D", color=INK, mfc="none", label=without)
        axes.set_xlim(0, sizes[-1])
        axes.set_ylim(0, None)
        axes.set_xlabel("Requests in a step")
        axes.set_ylabel("Tokens in a step")
        axes.set_title(title := "Which steps keep the TPOT target, and which does the plan let in?")
        drawn.legend(loc="outside lower left", ncols=2)
        return to_svg(drawn, "region", title)


def plan_grid(question: Question, chosen: Plan, facts: dict[str, str]) -> Grid:
    """The plan as a table.

    Args:
        question: what was planned for.
        chosen: the plan.
        facts: further rows.
    """
    engine = question.of_engine(chosen)
    rows = {
        "promise": question.stated()["promise"],
        "serves": f"{question.model.name} ({question.dtype}) on {question.layout}",
        "latency": question.latency.provenance,
        "requests": f"{question.workload}: mean prompt {question.demand.prompt_tokens.mean():,.0f}, "
        f"output {question.demand.output_tokens.mean():,.0f} tokens",
        "holds": f"{engine.rate_per_s:.3f} requests/s per engine",
        "saturates at": f"{engine.saturation_per_s:.3f} requests/s per engine",
        "bound by": chosen.bound_by,
        **facts,
    }
    cells = tuple((Cell(name), Cell(value)) for name, value in rows.items())
    return Grid("The plan", ("", ""), cells)


def disagreement_grid(question: Question, chosen: Plan, check: Simulated) -> Grid:
    """The closed form against simulation, at the rate that it proposes.

    Args:
        question: what was planned for.
        chosen: the closed form's plan.
        check: the simulation at its rate.
    """
    predicted = question.service(chosen).facing(chosen.rate_per_s / 1000.0)
    pairs = {
        "attainment": (predicted.attainment, check.attainment),
        "requests in a step": (chosen.batch_size, check.batch_size),
        "step, ms": (chosen.step_ms, check.step_ms),
        "KV cache in use": (chosen.kv_fraction, check.kv_fraction),
    }
    rows = tuple(
        (
            Cell(name),
            Cell(f"{planned:.3f}"),
            Cell(f"{found:.3f}"),
            Cell(f"{100 * (planned / found - 1):+.1f} %" if found else "-"),
        )
        for name, (planned, found) in pairs.items()
    )
    caption = (
        f"At {chosen.rate_per_s:.3f} requests/s on {question.unit}. Worst seed {check.worst:.3f}; "
        f"TTFT p95 {check.ttft_p95_ms:.0f} ms, TPOT p95 {check.tpot_p95_ms:.1f} ms; {check.refused:.1%} refused."
    )
    return Grid("Plan against simulation", ("", "closed form", "simulation", "is off by"), rows, caption)
