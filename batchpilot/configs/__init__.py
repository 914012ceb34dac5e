"""Typed configuration, YAML presets, and catalogues of devices and models."""

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec, device, devices, model, models
from batchpilot.configs.errors import ConfigError, ConfigWarning
from batchpilot.configs.reading import YamlFile, read_yaml
from batchpilot.configs.tuner import Recommended, TunerConfig
from batchpilot.configs.tuner_files import load_tuner_config, preset, presets, to_yaml

__all__ = [
    "ConfigError",
    "ConfigWarning",
    "DeviceSpec",
    "ModelSpec",
    "Recommended",
    "TunerConfig",
    "YamlFile",
    "device",
    "devices",
    "load_tuner_config",
    "model",
    "models",
    "preset",
    "presets",
    "read_yaml",
    "to_yaml",
]
