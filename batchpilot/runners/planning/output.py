"""A finished plan, told: on the terminal, as JSON, as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import typer

from batchpilot.core.files import json_text
from batchpilot.latency.planning.growth import Growth, Month, expansion
from batchpilot.runners.options import stdout_console
from batchpilot.runners.pasted import show_pasted
from batchpilot.runners.planning.capacity import Capacity
from batchpilot.runners.planning.choices_page import choices_chart, choices_grid, refused_grid
from batchpilot.runners.planning.choosing import Choice, Refused, pareto
from batchpilot.runners.planning.growing import growth_grid
from batchpilot.runners.planning.held import held_in_simulation
from batchpilot.runners.planning.meaning import facts
from batchpilot.runners.planning.page import disagreement_grid, plan_grid, verdict, write_plan_page
from batchpilot.runners.planning.planned import Question
from batchpilot.runners.report.grids import Grid
from batchpilot.runners.report.tables import tables


@dataclass(frozen=True)
class Expansion:
    """What growth asks for.

    Attributes:
        growth: of the rate.
        months: what each needs.
    """

    growth: Growth
    months: Sequence[Month]

    @classmethod
    def of(
        cls, growth: Growth, question: Question, capacity: Capacity, fleet: dict[str, Any], months: int, lead: float
    ) -> Expansion:
        """When to add what.

        Args:
            growth: of the rate.
            question: what is served on what.
            capacity: how much an engine takes.
            fleet: what `fleet_figures` made of it.
            months: how far to look.
            lead: months from an order until a device serves.
        """
        hourly = fleet["usd_per_device_hour"]
        engine_hour = math.nan if hourly is None else hourly * question.devices
        return cls(growth, expansion(growth, question.of_engine(capacity.plan).engines_for, months, lead, engine_hour))

    def stated(self) -> dict[str, Any]:
        """It as plain data."""
        return asdict(self.growth) | {"months": [asdict(month) for month in self.months]}


@dataclass(frozen=True)
class Planned:
    """A finished plan.

    Attributes:
        question: what is served on what.
        capacity: how much an engine takes.
        choices: the ways that were compared, the cheapest first; none where one was named.
        refused: those that cannot serve the load.
        fleet: what `fleet_figures` made of it.
        types: what to say of the types, by what it says.
        expansion: what growth asks for, None without any.
        origin: where the figures come from.
    """

    question: Question
    capacity: Capacity
    choices: list[Choice]
    refused: list[Refused]
    fleet: dict[str, Any]
    types: dict[str, str]
    expansion: Expansion | None
    origin: dict[str, Any]

    def write_page(self, path: Path) -> None:
        """Write the HTML page.

        Args:
            path: the file.

        Raises:
            OSError: it cannot be written.
        """
        priced = any(one.usd_per_million is not None for one in self.choices)
        chart = choices_chart(self.choices) if priced else ""
        curve = self.capacity.curve
        write_plan_page(path, self.question, self.capacity.plan, curve, self.grids, self.origin, chart)

    def show_json(self) -> None:
        """Print it for machines."""
        question, capacity, front = self.question, self.capacity, pareto(self.choices)
        batches = question.pipeline_parallel
        figures = asdict(question.of_engine(capacity.plan)) | question.stated()
        figures |= {"fleet": self.fleet, "types": self.types}
        if self.expansion is not None:
            figures["growth"] = self.expansion.stated()
        held = held_in_simulation(capacity.curve, question.attainment)
        checks = {
            "closed_form_per_s": question.of_engine(capacity.proposed).rate_per_s,
            "held_in_simulation_per_s": None if held is None else batches * held,
            "simulated": [asdict(point.together(batches)) for point in capacity.curve],
            "choices": [choice.stated() | {"pareto": choice in front} for choice in self.choices],
            "refused": [asdict(one) for one in self.refused],
        }
        typer.echo(json_text(figures | checks | self.origin, indent=2))

    def show(self) -> None:
        """Print the verdict, what to paste, and the tables."""
        console = stdout_console()
        typer.echo(verdict(self.question, self.capacity.plan))
        show_pasted(self.question.of_engine(self.capacity.plan).limits, self.question.shared_by)
        for grid in self.grids:
            for table in tables(grid):
                console.print(table)

    @cached_property
    def grids(self) -> tuple[Grid, ...]:
        """The ways that were compared, the plan, and where simulation disagrees."""
        question, capacity = self.question, self.capacity
        compared = [choices_grid(self.choices)] if len(self.choices) > 1 else []
        refused = [grid for grid in (refused_grid(self.refused, self.choices),) if grid.rows]
        grown: list[Grid] = []
        if self.expansion is not None:
            grown.append(growth_grid(self.expansion.months, question.devices, self.expansion.growth))
        return (
            *compared,
            *refused,
            plan_grid(question, capacity.plan, facts(question, capacity, self.fleet) | self.types),
            disagreement_grid(question, capacity.proposed, capacity.at_proposed),
            *grown,
        )
