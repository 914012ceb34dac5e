"""Tuner configurations in YAML files: the reader, the shipped presets, and the writer of a file to copy and edit."""

from __future__ import annotations

import warnings
from pathlib import Path

import yaml

from batchpilot.configs.errors import ConfigError, ConfigWarning
from batchpilot.configs.kinds import wrong_kind
from batchpilot.configs.reading import read_yaml
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core.names import closest, lookup

SECTION = "dynamic_batch_tuner"
"""Top-level key of a tuner configuration; a server's own sections may stand beside it."""

_PRESETS = Path(__file__).parent / "presets"


def load_tuner_config(path: str | Path, *, warn: bool = True) -> TunerConfig:
    """Read the `dynamic_batch_tuner` section of a YAML file.

    Args:
        path: the file; other top-level sections are left alone. An empty section means all defaults, and so does a
            missing one, with a warning; keys of the section outside it, or a near miss of its name, are an error.
        warn: whether values outside their recommended range are warned of, with file and line.

    Raises:
        ConfigError: a section that is misplaced or misspelt, an unknown key, a value that is not allowed, or a
            contradiction; the message names file, line, key, what was given and what is allowed.
        OSError: the file cannot be read.
    """
    file = read_yaml(path)
    if SECTION not in file.data:
        if told := wrong_kind(path, file.data, "tuner"):
            raise ConfigError(told)
        found = list(map(str, file.data))
        if mistake := _mistaken_section(found):
            raise ConfigError(f"no section {SECTION}; {mistake} ({file.where()})")
        message = f"no section {SECTION}, so all its defaults hold; found {', '.join(found) or 'nothing'}"
        if warn:
            warnings.warn(ConfigWarning(f"{message} ({file.where()})"), stacklevel=2)
        return TunerConfig()
    section = file.data[SECTION]
    if not isinstance(section, dict | None):
        raise ConfigError(f"{SECTION} is {section!r}; it must hold keys and values ({file.where(SECTION)})")
    try:
        config = TunerConfig.from_dict(section or {}, warn=False)
    except ConfigError as error:
        raise error.located(lambda key: file.where(SECTION, key)) from None
    if warn:
        for key, message in config.advice().items():
            warnings.warn(ConfigWarning(f"{message} ({file.where(SECTION, key)})", key), stacklevel=2)
    return config


def presets() -> tuple[str, ...]:
    """Names of the shipped configurations, the default first."""
    names = sorted(path.stem for path in _PRESETS.glob("*.yaml"))
    return ("default", *(name for name in names if name != "default"))


def preset(name: str) -> TunerConfig:
    """A shipped configuration; without warnings, since its values were chosen for its device.

    Args:
        name: one of `presets()`, in any case, `_` and blanks standing for `-`.

    Raises:
        ValueError: no such preset; the message names the closest known ones.
    """
    wanted = name.strip().lower().replace("_", "-").replace(" ", "-")
    lookup(dict.fromkeys(presets()), wanted, "preset")
    return load_tuner_config(_PRESETS / f"{wanted}.yaml", warn=False)


def to_yaml(config: TunerConfig) -> str:
    """The configuration as a YAML file with every key, its recommended range beside it; `load_tuner_config` reads it.

    Args:
        config: what to write.
    """
    usual = TunerConfig.recommended()
    lines = [f"{SECTION}:"]
    for key, value in config.to_dict().items():
        line = "  " + yaml.safe_dump({key: value}, width=1000).rstrip()
        lines.append(f"{line:<42}  # {usual[key]}" if key in usual else line)
    return "\n".join(lines) + "\n"


def _mistaken_section(found: list[str]) -> str:
    """What was probably meant where the section is missing; empty where nothing looks like it."""
    if any(key in TunerConfig.model_fields for key in found):
        return f"indent the tuner's keys below a line `{SECTION}:`"
    near = closest(SECTION, found)
    return f"{near[0]!r} may be meant for it" if near else ""
