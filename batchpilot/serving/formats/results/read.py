"""Reading a result file, or the folder that a load generator leaves, whoever wrote it."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace
from pathlib import Path

import yaml

from batchpilot.serving.formats.results.aiperf import AIPERF, AIPERF_RECORDS
from batchpilot.serving.formats.results.base import ImportedRun, ResultFormat
from batchpilot.serving.formats.results.batchpilot_load import BATCHPILOT_LOAD
from batchpilot.serving.formats.results.entries import Entry
from batchpilot.serving.formats.results.guidellm import GUIDELLM
from batchpilot.serving.formats.results.inference_perf import INFERENCE_PERF, INFERENCE_PERF_REQUESTS
from batchpilot.serving.formats.results.vllm_bench import VLLM_BENCH

FORMATS: dict[str, ResultFormat] = {
    "batchpilot": BATCHPILOT_LOAD,
    "vllm": VLLM_BENCH,
    "guidellm": GUIDELLM,
    "aiperf-records": AIPERF_RECORDS,
    "aiperf": AIPERF,
    "inference-perf-requests": INFERENCE_PERF_REQUESTS,
    "inference-perf": INFERENCE_PERF,
}
"""Formats by name; the first that fits a file reads it."""

_YAML = (".yaml", ".yml")


def read_results(path: str | Path) -> list[ImportedRun]:
    """The runs of a result file.

    Args:
        path: JSON, JSON lines or YAML, plain or compressed by gzip; or a folder, of which the file with the most to
            tell
            is read.

    Raises:
        ValueError: no format fits, or the file is damaged; the message names it, and the place in it, what stands there
            and what may.
        OSError: it cannot be opened.
    """
    path = _within(Path(path))
    runs: list[ImportedRun] = []
    for content in _contents(path):
        fitting = next((one for one in FORMATS.values() if one.fits(content.value)), None)
        if fitting is None:
            line = content.place.removesuffix(": ")
            raise ValueError(f"{path}{f', {line}' if line else ''}: no result file that is known. {_known()}")
        try:
            runs += fitting.read(path, content)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: {error} (read as a file of {fitting.what})") from None
    if not runs:
        raise ValueError(f"{path}: it holds no run. {_known()}")
    return _apart(runs)


def _apart(runs: list[ImportedRun]) -> list[ImportedRun]:
    """Runs of one name, numbered."""
    names = [run.name for run in runs]
    seen: dict[str, int] = {}
    told = []
    for run in runs:
        seen[run.name] = seen.get(run.name, 0) + 1
        told.append(replace(run, name=f"{run.name} #{seen[run.name]}") if names.count(run.name) > 1 else run)
    return told


def _within(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in (name for one in FORMATS.values() for name in one.files):
        found = sorted(path.glob(name)) or sorted(path.glob(f"*/{name}"))
        if found:
            return found[-1]
    raise ValueError(f"{path}: no result file in this folder. {_known()}")


def _contents(path: Path) -> list[Entry]:
    """What a file holds: one value, or one a line that is a value of its own; AIPerf's records stay together."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: its gzip data is cut off or damaged ({error})") from None
    text = data.decode("utf-8-sig", errors="replace")
    if path.suffix in _YAML:
        try:
            return [Entry(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))]
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: no YAML ({' '.join(str(error).split())[:120]})") from None
    try:
        return [Entry(json.loads(text))]
    except (ValueError, RecursionError) as error:
        values: list[object] = []
        lines: list[int] = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                values.append(json.loads(line))
            except (ValueError, RecursionError):
                told = f"neither JSON ({error}) nor JSON lines, see line {number}"
                raise ValueError(f"{path}: {told}. {_known()}") from None
            lines.append(number)
        if AIPERF_RECORDS.fits(values):
            return [Entry(values, lines=lines)]
        return [Entry(value, f"line {number}: ") for value, number in zip(values, lines, strict=True)]


def _known() -> str:
    return f"Read are files of {'; '.join(dict.fromkeys(one.what for one in FORMATS.values()))}"
