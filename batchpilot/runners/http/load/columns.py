"""The columns of a load test, one run after another: simulated, in this process, over HTTP."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from batchpilot.engines import SimulationResult
from batchpilot.runners.http.load.own_engine import OwnEngine
from batchpilot.serving.load.flight import LoadResult, Progress
from batchpilot.serving.load.run import LoadSettings, run_load
from batchpilot.workloads.table import RequestTable

SIMULATED, IN_PROCESS, OVER_HTTP = "simulated", "in process", "over HTTP"

Run = Callable[[Callable[[Progress], None], asyncio.Event], Awaitable[LoadResult]]


@dataclass
class Columns:
    """What came of the same requests wherever they were served.

    Attributes:
        simulated: on the simulated engine, None where that was not asked for.
        runs: in real time, by column.
    """

    simulated: SimulationResult | None = None
    runs: dict[str, LoadResult] = field(default_factory=dict)

    @property
    def outcomes(self) -> dict[str, SimulationResult]:
        """Every column's, in the order of a table."""
        first = {} if self.simulated is None else {SIMULATED: self.simulated}
        return first | {name: run.outcome for name, run in self.runs.items()}

    @property
    def name(self) -> str:
        """The column that the others are held against: over HTTP, unless it was not reached."""
        return list(self.runs)[-1]

    @property
    def result(self) -> LoadResult:
        """What it found."""
        return self.runs[self.name]

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped by hand."""
        return any(run.interrupted for run in self.runs.values())


def run_columns(
    sent: RequestTable,
    settings: LoadSettings,
    *,
    starts: bool,
    own: OwnEngine | None = None,
    simulate: Callable[[], SimulationResult] | None = None,
) -> Columns:
    """Send the requests everywhere that they are wanted.

    Args:
        sent: what is sent.
        settings: of the load over HTTP; an engine of this machine says how long its tokens are, where they do not.
        starts: whether the server is to be started, instead of the one at the settings' address.
        own: the engine of this machine.
        simulate: gives the simulated column; then an engine of this machine serves in this process too.

    Raises:
        ValueError: a server cannot be started, does not answer, or is not one.
    """
    if own is not None:
        settings = replace(settings, bytes_per_token=settings.bytes_per_token or own.bytes_per_token)
    columns = Columns()
    if simulate is not None:
        columns.simulated = simulate()
        if own is not None:
            columns.runs[IN_PROCESS] = fly(
                IN_PROCESS, len(sent), lambda on_progress, stop: own.in_process(settings.grace_s, on_progress, stop)
            )
    if columns.interrupted:
        return columns
    with own.over_http() if own is not None and starts else nullcontext(settings.url) as address:
        there = replace(settings, url=address)
        columns.runs[OVER_HTTP] = fly(
            OVER_HTTP, len(sent), lambda on_progress, stop: run_load(sent, there, on_progress, stop)
        )
    return columns


def fly(name: str, total: int, run: Run) -> LoadResult:
    """Run a load, with a bar on standard error where that is a terminal. Ctrl-C ends it early, a second one at once.

    Args:
        name: of the column.
        total: requests.
        run: the load.
    """
    console = Console(stderr=True)
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*shown, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total)

        def tell(progress: Progress) -> None:
            under_way = progress.sent - progress.ended
            bar.update(task, completed=progress.ended, description=f"{name}, {under_way} under way")

        return asyncio.run(_until_interrupted(lambda stop: run(tell, stop)))


async def _until_interrupted(run: Callable[[asyncio.Event], Awaitable[LoadResult]]) -> LoadResult:
    stop = asyncio.Event()

    def interrupt() -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    loop = asyncio.get_running_loop()
    # Not everywhere, and only in a main thread: elsewhere Ctrl-C ends the command as usual.
    with suppress(NotImplementedError, RuntimeError, ValueError):
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        return await run(stop)
    finally:
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.remove_signal_handler(signal.SIGINT)
