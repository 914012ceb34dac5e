"""Which scenarios and limits a command line names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer
import yaml

from batchpilot.configs import TunerConfig, load_tuner_config, preset, presets
from batchpilot.configs.catalogue import device, model, model_reference
from batchpilot.configs.footprint import weight_type
from batchpilot.configs.kinds import wrong_kind
from batchpilot.configs.reading import read_yaml
from batchpilot.configs.scenario import Promise, Scenario, load_scenario, scenario
from batchpilot.core.limits import Limits
from batchpilot.latency.model.parameter_file import read_parameters
from batchpilot.workloads.readers import guess_format


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


def replay_of(trace: Path, format: str | None = None, columns: str | None = None, **how: Any) -> Scenario:
    """The scenario that replays a trace; what nobody said of its format is guessed from its first lines and told.

    Args:
        trace: its file.
        format: one of `READERS`, None to guess it.
        columns: of a CSV file, as `--columns` takes them.
        **how: rate, start_s and the like, as a scenario's `trace` section has them.

    Raises:
        ValueError: a value is outside its bound, or no format fits the file.
        OSError: the file cannot be read.
    """
    options: dict[str, str] = {}
    if columns is not None and format not in (None, "csv"):
        raise ValueError(f"--columns is for CSV files, and --format says {format}; leave one out")
    if format is None or columns is not None:
        guess = guess_format(trace, None if columns is None else parse_columns(columns))
        format, options = guess.format, guess.options
        typer.echo(f"{trace}: {guess.why}", err=True)
    return scenario("trace-replay").with_trace(file=str(trace), format=format, options=options, **how)


def parse_columns(text: str) -> dict[str, str]:
    """What `--columns` says, as `guess_format` takes it.

    Args:
        text: such as "arrival=ts,prompt=in,output=out,unit=s".

    Raises:
        ValueError: a part is no pair.
    """
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(key.strip() and value.strip() for key, _, value in pairs):
        raise ValueError(f"--columns is {text!r}; it must be arrival=NAME,prompt=NAME,output=NAME or a part of that")
    return {key.strip(): value.strip() for key, _, value in pairs}


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


def chosen_tuner(typed: str | None, config: object | None, section: TunerConfig, default: str) -> str:
    """The tuner of a command: as typed, else the `strategy` of the configuration that was named, else the default.

    Args:
        typed: `--tuner`, None when it was not given.
        config: `--config`, None when it was not given.
        section: what that holds.
        default: the command's own.
    """
    return typed or (default if config is None else section.strategy)


@dataclass(frozen=True, slots=True)
class Changes:
    """What options change in every scenario of a command; None changes nothing.

    Attributes:
        device: catalogue name.
        model: catalogue name, or path of a `config.json` or its folder.
        tensor_parallel: devices that share the model.
        dtype: type the weights are stored in.
        parameters: file of the step latency; a scenario moves to the hardware that it names, unless another is typed.
        ttft_ms: TTFT promised to every request.
        tpot_ms: TPOT promised to every request.
        prefix_cache: whether the engine shares KV blocks of equal prefixes.
    """

    device: str | None = None
    model: str | None = None
    tensor_parallel: int | None = None
    dtype: str | None = None
    parameters: Path | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    prefix_cache: bool | None = None

    def of(self, chosen: Scenario) -> Scenario:
        """A scenario with the changes made.

        Args:
            chosen: the scenario.

        Raises:
            ValueError: a name is not in the catalogue, a value is outside its bound, or the parameter file is wrong.
            OSError: the parameter file cannot be read.
        """
        changes: dict[str, Any] = {}
        if self.parameters is not None:
            changes |= read_parameters(self.parameters).known_hardware() | {"parameters": str(self.parameters)}
        if self.device is not None:
            changes["device"] = device(self.device).name
        if self.model is not None:
            changes["model"] = model_reference(self.model)
        if self.tensor_parallel is not None:
            changes["tensor_parallel"] = self.tensor_parallel
        if self.dtype is not None:
            changes["dtype"] = weight_type(self.dtype, model(changes.get("model", chosen.model)))
        if self.ttft_ms is not None or self.tpot_ms is not None:
            check_promise(self.ttft_ms, self.tpot_ms)
            changes["promise"] = Promise(ttft_ms=self.ttft_ms, tpot_ms=self.tpot_ms)
        if self.prefix_cache is not None:
            changes["engine"] = chosen.engine.model_copy(update={"prefix_cache": self.prefix_cache})
        return chosen.model_copy(update=changes)

    def without_hardware(self) -> Changes:
        """Those that an engine which is started can still be asked: its hardware and model are what they are."""
        return replace(self, device=None, model=None, tensor_parallel=None, dtype=None, parameters=None)


def check_promise(ttft_ms: float | None, tpot_ms: float | None) -> None:
    """Refuse a promise that nobody can keep.

    Args:
        ttft_ms: as typed.
        tpot_ms: as typed.

    Raises:
        ValueError: a target is not above 0.
    """
    for option, target in (("--ttft-ms", ttft_ms), ("--tpot-ms", tpot_ms)):
        if target is not None and not target > 0:
            raise ValueError(f"{option} is {target:g}; a promise is above 0 ms, or inf for none")


def parse_limits(text: str) -> Limits:
    """Limits from `batch_size=64,token_budget=2048`, a lone number for a batch size, or a file that `tune` wrote.

    Args:
        text: as typed.

    Raises:
        ValueError: not of that form, an unknown field, or a value outside its bound.
        OSError: the file cannot be read.
    """
    if "=" not in text and looks_like_file(text):
        file = read_yaml(text)
        if told := wrong_kind(text, file.data, "limits"):
            raise ValueError(told)
        if not isinstance(file.data.get("limits"), dict):
            raise ValueError(f"{text} holds no section `limits` with a batch_size below it")
        return Limits.from_dict(file.data["limits"])
    if text.strip().isdigit():
        return Limits(int(text))
    data: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"limits {text!r}: {part.strip()!r} is not of the form name=value")
        data[name.strip()] = yaml.safe_load(value)
    return Limits.from_dict(data)
