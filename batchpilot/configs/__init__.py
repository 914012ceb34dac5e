"""Typed configuration, YAML presets, and catalogues of devices and models."""

from batchpilot.configs.errors import ConfigError, ConfigWarning
from batchpilot.configs.reading import YamlFile, read_yaml

__all__ = ["ConfigError", "ConfigWarning", "YamlFile", "read_yaml"]
