"""Published traces that catalogued scenarios replay: which scenario needs which file, and where that file lies."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import ValidationError

from batchpilot.configs.reading import read_yaml
from batchpilot.configs.scenario import Scenario
from batchpilot.configs.strict import StrictModel, config_error

_RECORDINGS = Path(__file__).parent / "recordings.yaml"


class Recording(StrictModel):
    """A published trace.

    Attributes:
        file: its file name as published.
        source: who published it, and under which licence.
        scenarios: catalogued scenarios that replay a part of it.
    """

    file: str
    source: str
    scenarios: list[str]


class _Catalogue(StrictModel):
    recordings: dict[str, Recording]


@cache
def recordings() -> dict[str, Recording]:
    """Every published trace by name.

    Raises:
        ConfigError: the catalogue is wrong; the message names the key.
    """
    file = read_yaml(_RECORDINGS)
    try:
        return _Catalogue.model_validate({"recordings": file.data}).recordings
    except ValidationError as error:
        raise config_error(error, file) from None


def recording_of(scenario: Scenario) -> str | None:
    """The name of the trace that a scenario needs and does not name a file of; None when it needs none or any will do.

    Args:
        scenario: catalogued or loaded.
    """
    if not scenario.needs_trace:
        return None
    return next((name for name, found in recordings().items() if scenario.name in found.scenarios), None)


def is_recorded(scenario: Scenario) -> bool:
    """Whether a scenario replays a published trace, be its file named by now or not.

    Args:
        scenario: catalogued or loaded.
    """
    return any(scenario.name in found.scenarios for found in recordings().values())


def with_recording(scenario: Scenario, folder: str | Path) -> Scenario:
    """The scenario with its trace looked for in a folder; unchanged where it needs no published trace.

    Args:
        scenario: catalogued or loaded.
        folder: where the published files lie, under their own names.

    Raises:
        FileNotFoundError: the folder lacks the file; the message names it and its source.
    """
    name = recording_of(scenario)
    if name is None:
        return scenario
    recording = recordings()[name]
    path = Path(folder) / recording.file
    if not path.is_file():
        raise FileNotFoundError(
            f"{scenario.name} replays {name}, and there is no {path}; put the file there ({recording.source})"
        )
    return scenario.with_trace(file=str(path))
