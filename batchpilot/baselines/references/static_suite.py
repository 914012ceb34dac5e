"""`static-suite`: the one fixed setting that is best on average over the training scenarios, found beforehand.

It is what an operator could have chosen before knowing the load. It is found by trying every setting of a track's grid
on every run of the suite `train` and ships as `configs/static_suite.yaml` with its provenance;
`python -m batchpilot.runners.leaderboard.static_suite --traces FOLDER` finds it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from batchpilot import configs
from batchpilot.baselines.references.static_best import goodput_of, track_grid
from batchpilot.configs.errors import ConfigError
from batchpilot.configs.reading import read_yaml
from batchpilot.core.files import write_atomic
from batchpilot.core.limits import TRACKS, Limits
from batchpilot.core.names import lookup
from batchpilot.envs.scenarios import PreparedRun

SHIPPED = Path(configs.__file__).parent / "static_suite.yaml"
"""The settings in use."""

STEP_TARGET_OF_TPOT_MS = 100.0
"""TPOT target that the grid's step targets are multiples of: the interactive class's. One fixed setting knows one."""

_HEADER = (
    "# The fixed setting that is best on average over the training scenarios, by track; see `provenance.command`.\n"
)


def suite_grid(track: str) -> list[Limits]:
    """Every fixed setting that is tried on all training scenarios.

    Args:
        track: one of `TRACKS`.

    Raises:
        ValueError: no such track.
    """
    return track_grid(track, STEP_TARGET_OF_TPOT_MS)


def goodputs(run: PreparedRun) -> NDArray[np.float64]:
    """Goodput share of every setting of the largest track's grid, in the grid's order.

    Args:
        run: one run of a training scenario.

    Returns:
        Shape (settings of `suite_grid("guarded")`,).
    """
    return np.array([goodput_of(run, limits) for limits in suite_grid("guarded")])


def best_on_average(shares: Sequence[NDArray[np.float64]], track: str) -> tuple[Limits, float]:
    """The setting of a track with the largest mean goodput share; the earlier one among equals.

    Args:
        shares: what `goodputs` gave, one array a run; every run weighs the same.
        track: one of `TRACKS`.

    Returns:
        The setting and its mean goodput share.

    Raises:
        ValueError: no such track, or no run.
    """
    if not shares:
        raise ValueError("no runs to average over")
    allowed = set(suite_grid(track))
    pairs = zip(suite_grid("guarded"), np.mean(shares, axis=0).tolist(), strict=True)
    return max((pair for pair in pairs if pair[0] in allowed), key=lambda pair: pair[1])


def write_settings(path: Path, settings: Mapping[str, tuple[Limits, float]], provenance: Mapping[str, Any]) -> Path:
    """Write what was found.

    Args:
        path: where.
        settings: setting and mean goodput share by track.
        provenance: where it comes from, as plain data.

    Raises:
        OSError: the file cannot be written.
    """
    data = {
        "settings": {track: limits.in_force() for track, (limits, _) in settings.items()},
        "mean_goodput_share": {track: round(share, 4) for track, (_, share) in settings.items()},
        "provenance": dict(provenance),
    }
    return write_atomic(path, _HEADER + yaml.safe_dump(data, sort_keys=False, width=110))


def read_settings(path: Path) -> dict[str, Limits]:
    """The settings of a file by track.

    Args:
        path: what `write_settings` wrote.

    Raises:
        ConfigError: not such a file; the message says what is wrong and where.
        OSError: the file cannot be read.
    """
    file = read_yaml(path)
    settings = file.data.get("settings")
    if not isinstance(settings, dict) or set(settings) != set(TRACKS):
        raise ConfigError(f"settings must name each of {', '.join(TRACKS)} once ({file.where('settings')})")
    found = {}
    for track, fields in settings.items():
        try:
            found[track] = Limits.from_dict(fields)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{error} ({file.where('settings', track)})") from None
    return found


@cache
def static_suite(track: str) -> Limits:
    """The shipped setting of a track.

    Args:
        track: one of `TRACKS`.

    Raises:
        ValueError: no such track.
    """
    return lookup(read_settings(SHIPPED), track, "track")
