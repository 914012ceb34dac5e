"""Prometheus' text format and OpenMetrics, as far as a server's figures need them.

A page is not judged: lines that are no samples say nothing, as comments, types and `# EOF` do. Sources: Prometheus'
"Exposition formats" and the OpenMetrics specification 1.0.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

_RANK = re.compile(r"(?!.*dp_rank$).*rank$")
"""Labels that tell the parts of one engine apart, each of which tells what the whole engine runs: SGLang's `tp_rank`,
`pp_rank`, `moe_ep_rank`. Data-parallel ones (`dp_rank`, vLLM's `engine`) are engines of their own."""

_SHARE = "priority"
"""SGLang tells its requests in all under an empty `priority`, and those of each priority beside it."""

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_NAME = re.compile(r"([a-zA-Z_:][\w:]*)(?:\s+|(?=\{))", re.ASCII)
_LABEL = re.compile(rf"\s*([a-zA-Z_]\w*|{_QUOTED})\s*=\s*({_QUOTED})\s*,?", re.ASCII)
_END_OF_LABELS = re.compile(r"\s*\}\s*")
_VALUE = re.compile(r"[^\s#]\S*")
_ESCAPED = re.compile(r'\\([\\"n])')

Labels = dict[str, str]


def samples(text: str, prefixes: tuple[str, ...] = ("",)) -> Iterator[tuple[str, Labels, float]]:
    """Name, labels and value of each sample; NaN for a value that is no number.

    Timestamps and exemplars behind a value are passed over.

    Args:
        text: the page.
        prefixes: beginnings of the names that are wanted.
    """
    for line in text.split("\n"):
        line = line.strip()
        sample = _sample(line) if line.startswith(prefixes) else None
        if sample is not None:
            yield sample


def of_engines(told: Iterable[tuple[Labels, float]]) -> list[float]:
    """One value for each engine: of what the ranks of one engine say the largest counts.

    Args:
        told: samples of one name.
    """
    by_series: dict[tuple[tuple[str, str], ...], float] = {}
    for labels, value in told:
        if math.isfinite(value):
            series = tuple(sorted(label for label in labels.items() if not _RANK.match(label[0])))
            by_series[series] = max(value, by_series.get(series, value))
    parts: dict[tuple[tuple[str, str], ...], dict[str, float]] = defaultdict(dict)
    for series, value in by_series.items():
        engine = tuple(label for label in series if label[0] != _SHARE)
        parts[engine][dict(series).get(_SHARE, "")] = value
    return [shares[""] if "" in shares else sum(shares.values()) for shares in parts.values()]


def number(text: str) -> float:
    """A value, or a label that is one (`le`, `quantile`); NaN for what is no number.

    Args:
        text: as it stands in the page.
    """
    try:
        # Python reads digits of other scripts, and underscores between digits.
        return float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return math.nan


def _sample(line: str) -> tuple[str, Labels, float] | None:
    """What a line says, None for one that is no sample."""
    name = _NAME.match(line)
    if name is None:
        return None
    place = name.end()
    labels: Labels = {}
    if line.startswith("{", place):
        place += 1
        while label := _LABEL.match(line, place):
            labels[_plain(label[1])] = _plain(label[2])
            place = label.end()
        end = _END_OF_LABELS.match(line, place)
        if end is None:
            return None
        place = end.end()
    value = _VALUE.match(line, place)
    return None if value is None else (name[1], labels, number(value[0]))


def _plain(text: str) -> str:
    """A label's name or value without quotes and escapes."""
    if not text.startswith('"'):
        return text
    return _ESCAPED.sub(lambda found: "\n" if found[1] == "n" else found[1], text[1:-1])
