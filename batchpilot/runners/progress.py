"""How commands that take longer than a few seconds show how far they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

EVERY_S = 10.0
"""Between two lines where there is no terminal to draw a bar on."""


class ToldProgress(Progress):
    """A bar on standard error that goes when it is done; where that is no terminal, a line every `EVERY_S`.

    Args:
        keeps: leave the bar when it is done.
        console: where to; standard error by default.
        clock: in s.
    """

    def __init__(
        self, *, keeps: bool = False, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = console or Console(stderr=True)
        super().__init__(*columns, console=console, transient=not keeps, disable=not console.is_terminal)
        self._clock = clock
        self._told_s = clock()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As Progress's own.

        Args:
            task_id: of the task.
            **changes: completed, advance, description, total, ...
        """
        super().update(task_id, **changes)
        now_s = self._clock()
        if not self.console.is_terminal and now_s - self._told_s >= EVERY_S:
            self._told_s = now_s
            task = next(task for task in self.tasks if task.id == task_id)
            of = "" if task.total is None else f" of {task.total:,.0f}"
            self.console.print(f"{task.completed:,.0f}{of}: {task.description}", highlight=False, soft_wrap=True)
