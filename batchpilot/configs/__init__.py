"""Typed configuration, YAML presets, and catalogues of devices and models."""

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec, device, devices, model, models
from batchpilot.configs.errors import ConfigError, ConfigWarning
from batchpilot.configs.reading import YamlFile, read_yaml
from batchpilot.configs.scenario import Scenario, load_scenario, scenario, scenario_names, suite, suites
from batchpilot.configs.tuner import Recommended, TunerConfig
from batchpilot.configs.tuner_files import load_tuner_config, preset, presets, to_yaml
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
    "scenario",
    "scenario_names",
    "suite",
    "suites",
    "to_yaml",
]
