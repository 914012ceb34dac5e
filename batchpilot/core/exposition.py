"""Prometheus' text format, as far as a server's figures need it."""

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

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)\s*=\s*"((?:[^"\\]|\\.)*)"')

Labels = dict[str, str]


def samples(text: str, prefixes: tuple[str, ...] = ("",)) -> Iterator[tuple[str, Labels, float]]:
    """Name, labels and value of each sample; NaN for a value that is no number.

    Args:
        text: the page.
        prefixes: beginnings of the names that are wanted.
    """
    for line in text.splitlines():
        found = _SAMPLE.match(line) if line.startswith(prefixes) else None
        if found is not None:
            yield found[1], dict(_LABEL.findall(found[2] or "")), _number(found[3])


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


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
