"""Which scenarios and limits a command line names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from batchpilot.configs import TunerConfig, load_tuner_config, preset, presets
from batchpilot.configs.catalogue import device, model_reference
from batchpilot.configs.scenario import Scenario, load_scenario, scenario
from batchpilot.core.limits import Limits


def looks_like_file(name: str) -> bool:
    """Whether a name on the command line means a file rather than something catalogued.

    Args:
        name: as typed.
    """
    path = Path(name)
    return path.suffix in (".yaml", ".yml") or len(path.parts) > 1 or path.is_file()


def find_scenario(name: str) -> Scenario:
    """A scenario by catalogue name or file.

    Args:
        name: as typed.

    Raises:
        ValueError: no such scenario, or the file is wrong.
        OSError: the file cannot be read.
    """
    return load_scenario(name) if looks_like_file(name) else scenario(name)


def replay_of(trace: Path, **how: Any) -> Scenario:
    """The scenario that replays a trace.

    Args:
        trace: its file.
        **how: format, rate, start_s and the like, as a scenario's `trace` section has them.

    Raises:
        ValueError: a value is outside its bound.
    """
    return scenario("trace-replay").with_trace(file=str(trace), **how)


def find_tuner_config(name: str | None) -> TunerConfig:
    """A tuner configuration by preset name or file; the defaults without a name.

    Args:
        name: as typed, or None.

    Raises:
        ValueError: no such preset, or the file is wrong.
        OSError: the file cannot be read.
    """
    if name is None:
        return TunerConfig()
    return preset(name) if name in presets() or not looks_like_file(name) else load_tuner_config(name)


def on_hardware(
    chosen: Scenario, device_name: str | None = None, model_name: str | None = None, tensor_parallel: int | None = None
) -> Scenario:
    """A scenario moved to another device or model.

    Args:
        chosen: the scenario.
        device_name: catalogue name; None keeps the scenario's.
        model_name: catalogue name, or path of a `config.json` or its folder; None keeps the scenario's.
        tensor_parallel: devices that share the model; None keeps the scenario's.

    Raises:
        ValueError: the device or the model is not in the catalogue.
    """
    changes: dict[str, Any] = {}
    if device_name is not None:
        changes["device"] = device(device_name).name
    if model_name is not None:
        changes["model"] = model_reference(model_name)
    if tensor_parallel is not None:
        changes["tensor_parallel"] = tensor_parallel
    return chosen.model_copy(update=changes)


def parse_limits(text: str) -> Limits:
    """Limits from `batch_size=64,token_budget=2048`; a lone number is a batch size.

    Args:
        text: as typed.

    Raises:
        ValueError: not of that form, an unknown field, or a value outside its bound.
    """
    if text.strip().isdigit():
        return Limits(int(text))
    data: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"limits {text!r}: {part.strip()!r} is not of the form name=value")
        data[name.strip()] = yaml.safe_load(value)
    return Limits.from_dict(data)
