"""What an environment tells of an episode when it ends, and how that compares with what the run allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.baselines.static import SERVER_DEFAULT
from batchpilot.core.actions import ActionTable
from batchpilot.core.limits import TRACKS
from batchpilot.envs.scenarios import PreparedRun

DEFAULT, HINDSIGHT = "static-default", "static-best"
"""The references: what servers ship, and the best fixed setting of the track for the very run, known afterwards."""

LEAST_ROOM = 0.01
"""Where hindsight gains less than this share over the default, a run tells nobody apart."""

REFERENCES, NORMALISED = "references", "normalised_score"


class Asked(dict[str, Any]):
    """A dictionary some of whose entries are made when they are first asked for by name.

    Until then they are not in it, so that to print, compare, copy or pickle it costs nothing; a pickled or copied one
    is an ordinary dictionary of what is there.

    Args:
        told: what is there from the start.
        makers: what makes the others, of the dictionary itself.
    """

    def __init__(self, told: Mapping[str, Any], makers: Mapping[str, Callable[[Asked], Any]]) -> None:
        super().__init__(told)
        self._makers = dict(makers)

    def __missing__(self, name: str) -> Any:
        """Make an entry."""
        self[name] = made = self._makers[name](self)
        return made

    def get(self, name: str, default: Any = None) -> Any:
        """An entry, made where that is needed.

        Args:
            name: its name.
            default: what stands for one that does not exist.
        """
        return self[name] if name in self or name in self._makers else default

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is an ordinary dictionary."""
        return dict, (dict(self),)


def good_tokens(metrics: NDArray[Any]) -> NDArray[np.float64]:
    """Output tokens of the requests that ended in a window and met their SLO.

    Args:
        metrics: records of `core.metrics.METRICS`, shape (n,).
    """
    tokens: NDArray[np.float64] = np.rint(metrics["goodput_tokens_per_s"] * metrics["duration_ms"] / 1000.0)
    return tokens


def references_of(run: PreparedRun, track: str) -> dict[str, float]:
    """Goodput shares of the references on a run: some hundred fixed settings are played through.

    Args:
        run: the run.
        track: the limits that hindsight may set.
    """
    # Here, because the references are themselves built on runs of this package.
    from batchpilot.baselines.references.static_best import best_static, goodput_of, tightest_tpot_ms, track_grid

    shipped = goodput_of(run, SERVER_DEFAULT)
    best = best_static(run, track_grid(track, tightest_tpot_ms(run)))[1]
    return {DEFAULT: shipped, HINDSIGHT: best}


def normalised(share: float, references: Mapping[str, float]) -> float:
    """A goodput share as 0 for the shipped default and 1 for hindsight; a schedule that moves may exceed 1.

    Args:
        share: what was reached.
        references: what `references_of` gave.

    Returns:
        The score; NaN where hindsight gains less than `LEAST_ROOM`.
    """
    room = references[HINDSIGHT] - references[DEFAULT]
    return (share - references[DEFAULT]) / room if room >= LEAST_ROOM else math.nan


def track_of(table: ActionTable) -> str:
    """The smallest track that holds every limit of a table; the largest where none does.

    Args:
        table: an action table.
    """
    return next((track for track, fields in TRACKS.items() if {*table.fields} <= {*fields}), [*TRACKS][-1])


def episode(
    run: PreparedRun, rewards: float, decisions: int, good_tokens: float, references: Callable[[], dict[str, float]]
) -> Asked:
    """What `info` tells when an episode ends.

    Args:
        run: what was played.
        rewards: their sum.
        decisions: steps taken.
        good_tokens: output tokens served within SLO.
        references: of the run.

    Returns:
        "r" and "l" (sum of rewards and steps, as learning libraries read them), "offered_tokens" and
        "goodput_fraction" (left out where nothing was offered); when asked for, "references" and "normalised_score".
    """
    offered = float(run.requests.output_tokens.sum())
    share = good_tokens / offered if offered else math.nan
    told = {"r": rewards, "l": decisions, "offered_tokens": offered}
    if offered:
        told["goodput_fraction"] = share
    makers: dict[str, Callable[[Asked], Any]] = {
        REFERENCES: lambda _: references(),
        NORMALISED: lambda found: normalised(share, found[REFERENCES]),
    }
    return Asked(told, makers)


def vector_episodes(
    episodes: Mapping[int, Asked], add_info: Callable[[dict[str, Any], dict[str, Any], int], dict[str, Any]]
) -> Asked:
    """The episodes of many rows in Gymnasium's form, arrays with masks; what costs more still waits to be asked for.

    Args:
        episodes: by row.
        add_info: how a row's info joins the others', `gymnasium.vector.VectorEnv._add_info`.
    """

    def joined(tell: Callable[[Asked], dict[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for row, one in episodes.items():
            found = add_info(found, tell(one), row)
        return found

    def maker(name: str) -> Callable[[Asked], Any]:
        def make(asked: Asked) -> Any:
            asked.update(joined(lambda one: {name: one[name]}))
            return asked[name]

        return make

    return Asked(joined(dict), {name: maker(name) for name in (REFERENCES, NORMALISED)})
