"""What a policy file says about its policy, as metadata entries: plain text, JSON where there is structure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from batchpilot.core.actions import ActionTable
from batchpilot.core.features import FEATURE_VERSION, FEATURES_OF_VERSION, feature_names
from batchpilot.core.limits import TRACKS
from batchpilot.core.names import lookup
from batchpilot.tuners.policy.seal import SEAL_KEY

SCHEMA = 1
"""Changes with any key or meaning below."""

MOST_STACKED = 64
LONGEST_GRID = 512
HIGHEST_LIMIT = 2**40
LONGEST_INTERVAL_MS = 3_600_000.0

KEYS = (
    "schema",
    "track",
    "feature_version",
    "feature_names",
    "action_table",
    "stack",
    "decision_interval_ms",
    "observation_low",
    "observation_high",
    "training",
)


@dataclass(frozen=True, eq=False)
class PolicyDescription:
    """Everything about a policy but its weights.

    Attributes:
        track: the track in which it competes, one of `TRACKS`.
        table: what its actions mean; its base limits are where it starts.
        stack: windows that it looks at, oldest first.
        decision_interval_ms: length of the windows it was trained on; None for several lengths.
        observation_low: lowest value of each feature seen in training, F values; empty when not recorded.
        observation_high: highest value, likewise.
        training: where it comes from: git revision, seeds, scenarios, scores, as the training wrote it.
        feature_version: of the features that it looks at.

    Raises:
        ValueError: a value is outside its bound.
    """

    track: str
    table: ActionTable
    stack: int = 1
    decision_interval_ms: float | None = None
    observation_low: tuple[float, ...] = ()
    observation_high: tuple[float, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    feature_version: int = FEATURE_VERSION

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features that it looks at, in order."""
        return feature_names(self.feature_version)

    def __post_init__(self) -> None:
        lookup(TRACKS, self.track, "track")
        _check_table(self.table)
        if not 1 <= self.stack <= MOST_STACKED:
            raise ValueError(f"stack is {self.stack}; a policy looks at 1 to {MOST_STACKED} windows")
        if self.decision_interval_ms is not None and not 0 < self.decision_interval_ms <= LONGEST_INTERVAL_MS:
            raise ValueError(
                f"decision_interval_ms is {self.decision_interval_ms}; it must be above 0 and at most an hour, or None"
            )
        counts = {len(self.observation_low), len(self.observation_high)}
        if counts != {0} and counts != {len(self.feature_names)}:
            raise ValueError(
                f"observation_low and observation_high have {sorted(counts)} values; "
                f"both need {len(self.feature_names)}, one a feature, or none"
            )
        pairs = zip(self.feature_names, self.observation_low, self.observation_high, strict=False)
        for name, low, high in pairs:
            if not low <= high:
                raise ValueError(f"feature {name} was seen between {low} and {high}, which is no range")

    def to_metadata(self) -> dict[str, str]:
        """Metadata entries in the order of `KEYS`; equal descriptions give equal texts."""
        values = {
            "schema": SCHEMA,
            "track": self.track,
            "feature_version": self.feature_version,
            "feature_names": list(self.feature_names),
            "action_table": self.table.describe(),
            "stack": self.stack,
            "decision_interval_ms": self.decision_interval_ms,
            "observation_low": list(self.observation_low),
            "observation_high": list(self.observation_high),
            "training": dict(self.training),
        }
        texts = {key: value if isinstance(value, str) else _to_json(key, value) for key, value in values.items()}
        return {key: texts[key] for key in KEYS}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> PolicyDescription:
        """A description from metadata entries.

        Args:
            metadata: texts by key; the seal's own is passed over.

        Raises:
            ValueError: an entry is missing, unknown or wrong, or the policy was made for other features.
        """
        missing = [key for key in KEYS if key not in metadata]
        if missing:
            raise ValueError(f"the metadata lack {', '.join(missing)}")
        unknown = [key for key in metadata if key not in KEYS and key != SEAL_KEY]
        if unknown:
            raise ValueError(f"the metadata hold {', '.join(map(repr, unknown))}, which schema {SCHEMA} does not know")
        if metadata["schema"] != str(SCHEMA):
            raise ValueError(f"its schema is {metadata['schema']!r}; this version reads {SCHEMA}")
        values = {
            key: text if key == "track" else _from_json(key, text) for key, text in metadata.items() if key in KEYS
        }
        version = check_features(values["feature_version"], values["feature_names"])
        return cls(
            track=metadata["track"],
            table=read_table(values["action_table"]),
            stack=read_whole("stack", values["stack"]),
            decision_interval_ms=read_interval(values["decision_interval_ms"]),
            observation_low=read_numbers("observation_low", values["observation_low"]),
            observation_high=read_numbers("observation_high", values["observation_high"]),
            training=read_mapping("training", values["training"]),
            feature_version=version,
        )


def check_features(version: object, names: object) -> int:
    """Refuse a policy that was made for other features than `core.features` computes.

    Args:
        version: its feature version.
        names: its feature names in order.

    Returns:
        Its feature version.

    Raises:
        ValueError: one of them differs; the first difference is named.
    """
    if isinstance(version, bool) or not isinstance(version, int) or version not in FEATURES_OF_VERSION:
        known = ", ".join(map(str, FEATURES_OF_VERSION))
        raise ValueError(f"its feature version is {version!r}; this version of batchpilot computes {known}")
    needed = feature_names(version)
    if not isinstance(names, list) or len(names) != len(needed):
        count = len(names) if isinstance(names, list) else type(names).__name__
        raise ValueError(f"feature_names: {count} given; {len(needed)} names are needed")
    for index, (given, expected) in enumerate(zip(names, needed, strict=True)):
        if given != expected:
            raise ValueError(f"feature {index} is {given!r} in the policy and {expected!r} here")
    return version


def read_table(description: object) -> ActionTable:
    """An action table from plain data that is not trusted.

    Args:
        description: what `ActionTable.describe` gave.

    Raises:
        ValueError: it is not a table that a server could follow; the message says why.
    """
    if not isinstance(description, Mapping):
        raise ValueError(f"action_table is a {type(description).__name__}; it must be a mapping")
    try:
        return ActionTable.from_description(description)
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise ValueError(f"action_table: {error}") from None


def read_numbers(key: str, values: object) -> tuple[float, ...]:
    """A list of finite numbers that is not trusted.

    Args:
        key: what it is called.
        values: the list.

    Raises:
        ValueError: it is no list, or holds something else.
    """
    if not isinstance(values, list):
        raise ValueError(f"{key} is a {type(values).__name__}; it must be a list of numbers")
    return tuple(read_number(key, value) for value in values)


def read_number(key: str, value: object) -> float:
    """A finite number that is not trusted.

    Args:
        key: what it is called.
        value: the number.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e300 < value < 1e300:
        raise ValueError(f"{key} holds {value!r:.80}; it must be a finite number")
    return float(value)


def read_interval(value: object) -> float | None:
    """A decision interval that is not trusted; None stays None.

    Args:
        value: in ms.

    Raises:
        ValueError: it is no finite number.
    """
    return None if value is None else read_number("decision_interval_ms", value)


def read_whole(key: str, value: object) -> int:
    """A whole number that is not trusted.

    Args:
        key: what it is called.
        value: the number.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key} is {value!r:.80}; it must be a whole number")
    return value


def read_mapping(key: str, value: object) -> dict[str, Any]:
    """A mapping that is not trusted.

    Args:
        key: what it is called.
        value: the mapping.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{key} is a {type(value).__name__}; it must be a mapping")
    return value


def _check_table(table: ActionTable) -> None:
    """Refuse a table with a notch that no server could be set to."""
    for grid in table.grids:
        if len(grid.values) > LONGEST_GRID:
            raise ValueError(f"action_table: {grid.field} has {len(grid.values)} notches; at most {LONGEST_GRID}")
        if grid.ordered != (grid.field != "discipline"):
            raise ValueError(f"action_table: {grid.field} must have {'notches' if grid.ordered else 'choices'}")
        lowest = 0.0 if grid.field in ("discipline", "max_queued_tokens", "speculative_tokens") else math.ulp(0.0)
        if not all(lowest <= value <= HIGHEST_LIMIT or value == math.inf for value in grid.values):
            raise ValueError(f"action_table: a notch of {grid.field} is outside {lowest:g} to {HIGHEST_LIMIT}, or off")
        whole = grid.field in ("batch_size", "token_budget", "max_queued_tokens", "speculative_tokens")
        if whole and not all(math.isinf(value) or value == round(value) for value in grid.values):
            raise ValueError(f"action_table: a notch of {grid.field} is no whole number")
        if grid.field in ("batch_size", "speculative_tokens") and math.isinf(grid.values[-1]):
            raise ValueError(f"action_table: {grid.field} cannot be off, which would be unlimited")
    for name, value in table.base.to_dict().items():
        if isinstance(value, int | float) and value > HIGHEST_LIMIT:
            raise ValueError(f"action_table: {name} of the base limits is {value:g}; at most {HIGHEST_LIMIT}")
    if any(abs(move) > LONGEST_GRID for move in table.moves):
        raise ValueError(f"action_table: moves {list(table.moves)} go beyond {LONGEST_GRID} notches")


def _to_json(key: str, value: object) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), sort_keys=key == "training", allow_nan=False)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{key} cannot be written as JSON: {error}") from None


def _from_json(key: str, text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the metadata entry {key} is no JSON: {error}") from None
