"""Typed configuration, YAML presets, and catalogues of devices and models.

Scenarios and catalogues are imported on first use: a server that only needs a tuner's configuration starts sooner. The
function `scenario` is in the module of its name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from batchpilot.configs.errors import ConfigError, ConfigWarning
from batchpilot.configs.reading import YamlFile, read_yaml
from batchpilot.configs.tuner import Recommended, TunerConfig
from batchpilot.configs.tuner_files import load_tuner_config, preset, presets, to_yaml

if TYPE_CHECKING:
    from batchpilot.configs.catalogue import DeviceSpec, ModelSpec, device, devices, model, models
    from batchpilot.configs.scenario import Scenario, load_scenario, scenario_names, suite, suites
    from batchpilot.configs.workload_spec import Workload

__all__ = [
    "ConfigError",
    "ConfigWarning",
    "DeviceSpec",
    "ModelSpec",
    "Recommended",
    "Scenario",
    "TunerConfig",
    "Workload",
    "YamlFile",
    "device",
    "devices",
    "load_scenario",
    "load_tuner_config",
    "model",
    "models",
    "preset",
    "presets",
    "read_yaml",
    "scenario_names",
    "suite",
    "suites",
    "to_yaml",
]

_HOMES = {
    **dict.fromkeys(("DeviceSpec", "ModelSpec", "device", "devices", "model", "models"), "catalogue"),
    **dict.fromkeys(("Scenario", "load_scenario", "scenario_names", "suite", "suites"), "scenario"),
    "Workload": "workload_spec",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(f"batchpilot.configs.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'batchpilot.configs' has no attribute {name!r}")
