"""`batchpilot tune --server`: what was asked for, the study, its table and its files."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from batchpilot.core.files import json_text, plain, write_atomic, write_json
from batchpilot.core.limits import TRACKS
from batchpilot.core.names import lookup
from batchpilot.core.provenance import provenance
from batchpilot.runners.options import stdout_console
from batchpilot.runners.report.grids import ABSENT, Cell, Grid, number, percent
from batchpilot.runners.report.tables import tables
from batchpilot.runners.stated import offered, promise_of
from batchpilot.runners.tuning.files import limits_yaml
from batchpilot.runners.tuning.live.study import Bounds, best_of, run_study, settings
from batchpilot.runners.tuning.live.trial import TrialRunner
from batchpilot.runners.tuning.live.trials import COMPLETE, Trial, read_trials
from batchpilot.runners.tuning.live.twin import Twin
from batchpilot.runners.tuning.resuming import differences, told
from batchpilot.servers import KINDS, ServerKind
from batchpilot.workloads.table import RequestTable


@dataclass(frozen=True)
class Launch:
    """How a server is started, and how patient the study is with it.

    Attributes:
        server: one of `batchpilot.servers.KINDS`.
        command: words after `--`.
        model: what requests name.
        start_s: how long a start may take.
        grace_s: how long answers are waited for.
    """

    server: str
    command: Sequence[str]
    model: str | None
    start_s: float
    grace_s: float


@dataclass(frozen=True)
class Asked:
    """What the command was told.

    Attributes:
        launch: the server.
        requests: the load.
        load: what it is, for the record.
        track: limits that may move.
        bounds: when it ends.
        seed: of prompts, intervals and the twin.
        folder: for logs, trials and results.
        resume: go on with the trials there.
        overwrite: begin anew over them.
    """

    launch: Launch
    requests: RequestTable
    load: Mapping[str, Any]
    track: str
    bounds: Bounds
    seed: int
    folder: Path
    resume: bool
    overwrite: bool


def tune_server(asked: Asked, *, as_json: bool) -> None:
    """Run the study and tell what was found.

    Args:
        asked: what the command was told.
        as_json: whether machines read it.

    Raises:
        ValueError: the command or the load is not what it must be, or the folder holds another study.
    """
    kind, movable = _server(asked)
    path, trials = _trials(asked)
    ended = _search(asked, kind, movable, path, trials)
    results = _results(asked, kind, trials, ended)
    best = best_of(trials)
    write_json(asked.folder / "results.json", results)
    if best is not None:
        remarks = [verdict(trials), f"{asked.launch.server}: {shlex.join(asked.launch.command)}"]
        write_atomic(asked.folder / "limits.yaml", limits_yaml(best.limits, remarks))
    if as_json:
        typer.echo(json_text(results, indent=1))
    else:
        _show(asked.folder, trials, results)
    if best is None:
        raise typer.Exit(1)


def _server(asked: Asked) -> tuple[ServerKind, list[str]]:
    """The server and which of its limits may move, made sure that the load can be sent to it."""
    kind = lookup(KINDS, asked.launch.server, "server")(list(asked.launch.command))
    movable = [name for name in kind.movable if name in lookup(TRACKS, asked.track, "track")]
    if not movable:
        raise ValueError(
            f"track {asked.track} moves no limit that this command can be given ({', '.join(kind.movable)})"
        )
    if asked.requests.concurrency:
        raise ValueError(
            "the load is a closed loop, whose clients wait for a slow server; tune --server needs an open one"
        )
    if asked.requests.turns is not None:
        raise ValueError("the load holds conversations, which wait for a slow server; tune --server needs an open loop")
    return kind, movable


def _search(asked: Asked, kind: ServerKind, movable: Sequence[str], path: Path, trials: list[Trial]) -> str:
    """Start the server with one setting after another; tells why it ended. Trials are added to those that there are."""
    launch, capacity = asked.launch, kind.facts.get("kv_capacity_tokens")
    run = TrialRunner(kind, asked.requests, asked.folder, launch.start_s, launch.grace_s, asked.seed, launch.model)
    try:
        return run_study(
            settings(kind.base, movable),
            trials,
            path,
            asked.bounds,
            run=run,
            twin_of=lambda so_far: Twin.of(asked.requests, so_far, capacity, asked.seed),
            tell=lambda trial: typer.secho(_line(trial), err=True),
        )
    except KeyboardInterrupt:
        kept = f"{len(trials)} trials are kept in {path}"
        typer.secho(f"stopped: {kept}; the same command with --resume goes on", err=True, fg=typer.colors.YELLOW)
        raise typer.Exit(130) from None


def _results(asked: Asked, kind: ServerKind, trials: Sequence[Trial], ended: str) -> dict[str, Any]:
    """What `results.json` holds."""
    best = best_of(trials)
    return {
        "ended": ended,
        "best": None if best is None else best.limits.to_dict(),
        "command": None if best is None else shlex.join(kind.words(best.limits, kind.facts.get("port") or 8000)),
        "trials": [json.loads(trial.to_line()) for trial in trials],
        "promise": promise_of(asked.requests),
        "load": offered(asked.requests),
        **provenance(asked.seed, _settings(asked)),
    }


def _show(folder: Path, trials: Sequence[Trial], results: Mapping[str, Any]) -> None:
    typer.echo(f"promise {results['promise']}; load {results['load']}")
    stdout_console().print(*tables(trial_grid(trials)))
    typer.secho(verdict(trials), bold=True)
    typer.echo(f"Ended: {results['ended']}.")
    found = results["best"] is not None
    if found:
        typer.echo(results["command"])
    typer.echo(f"{folder}/results.json, trials.jsonl" + (", limits.yaml" if found else ""))


def verdict(trials: Sequence[Trial]) -> str:
    """The result in one sentence.

    Args:
        trials: all of them.
    """
    best = best_of(trials)
    if best is None:
        return f"None of {len(trials)} starts served the load; the first: {trials[0].reason}" if trials else "No trial."
    interval = f"[{percent(best.low)}, {percent(best.high)}]"
    first = trials[0]
    before = f"{percent(first.goodput)} as it was started" if first.state == COMPLETE else "not started as it was"
    others = [trial for trial in trials if trial.state == COMPLETE and trial is not best and trial.high >= best.low]
    alike = f"; within its interval also {'; '.join(str(trial.limits) for trial in others)}" if others else ""
    return f"{best.limits}: goodput share {percent(best.goodput)} {interval}, {before}{alike}."


def trial_grid(trials: Sequence[Trial]) -> Grid:
    """One row a trial.

    Args:
        trials: in order.
    """
    best = best_of(trials)
    rows = []
    for trial in trials:
        known = trial.state == COMPLETE
        texts = (
            str(trial.number),
            str(trial.limits),
            percent(trial.goodput) if known else ABSENT,
            f"{percent(trial.low)} - {percent(trial.high)}" if known else ABSENT,
            percent(trial.expected) if math.isfinite(trial.expected) else ABSENT,
            *(number(trial.figures[name], 0) if name in trial.figures else ABSENT for name in _SHOWN),
            f"{trial.seconds:.0f}",
            trial.reason[:80],
        )
        rows.append(tuple(Cell(text, best=trial is best) for text in texts))
    header = (
        "trial",
        "limits",
        "goodput\nshare",
        "95 %\ninterval",
        "twin\nexpected",
        "TTFT\np95 ms",
        "TPOT\np95 ms",
        "s",
        "failed",
    )
    return Grid("Which setting keeps most promises?", header, tuple(rows))


_SHOWN = ("ttft_p95_ms", "tpot_p95_ms")


def _line(trial: Trial) -> str:
    if trial.state == COMPLETE:
        said = f"goodput share {percent(trial.goodput)} [{percent(trial.low)}, {percent(trial.high)}]"
    else:
        said = f"failed: {trial.reason}"
    return f"trial {trial.number}: {trial.limits}: {said} in {trial.seconds:.0f} s"


def _settings(asked: Asked) -> dict[str, Any]:
    told: dict[str, Any] = {
        "server": asked.launch.server,
        "command": list(asked.launch.command),
        "load": asked.load,
        "track": asked.track,
        "grace_s": asked.launch.grace_s,
        "seed": asked.seed,
        "model": asked.launch.model,
    }
    return told


def _trials(asked: Asked) -> tuple[Path, list[Trial]]:
    """Where trials are kept, and those that are, made sure that nothing is replaced or mixed without being told."""
    path, said = asked.folder / "trials.jsonl", asked.folder / "study.json"
    now = _settings(asked)
    if asked.resume and asked.overwrite:
        raise ValueError("--resume and --overwrite are both given; a study is either kept or replaced")
    if path.exists() and not (asked.resume or asked.overwrite):
        raise ValueError(f"{path} holds trials already; add --resume or --overwrite, or give another --out")
    if asked.overwrite:
        path.unlink(missing_ok=True)
    if asked.resume and said.exists():
        differing = differences(json.loads(said.read_text()), plain(now))
        if differing:
            raise ValueError(f"{asked.folder} holds another study: {told(differing)}; ask for the same, or --overwrite")
    trials = read_trials(path)
    write_json(said, now)
    return path, trials
