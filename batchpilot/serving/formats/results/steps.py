"""Steps of the server as its clients saw them: what `calibrate --measurements` reads. Times in ms.

Where a file tells when each token came, a step has ended when a request speaks again, as the gateway sees it. Where
it tells only the first token and the last, each request gives one row: the mean step between them, with the mean
number of texts, of tokens computed and of context tokens over that time. Means lie on the line that the steps lie on,
as far as step time is linear.

Both see the server from outside: the way there and back is part of a step, and a prompt counts as computed while its
request waited for its first token.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchpilot.engines.scheduler.state import LENGTH
from batchpilot.latency.fitting.observations import Observations
from batchpilot.serving.formats.results.base import Requests
from batchpilot.serving.gateway.steps import StepWatcher

FEWEST_TOKENS = 4
"""A shorter output tells no mean step."""


def steps_seen(requests: Requests) -> Observations:
    """Steps of the server that served them.

    Args:
        requests: of one run against one server.

    Raises:
        ValueError: no request was served with tokens after its first, so there is no step to see.
    """
    found = _watched(requests) if requests.times_tokens else _means(requests)
    if not len(found):
        raise ValueError(
            f"no request was served with {FEWEST_TOKENS} tokens or more that came one by one, so no step shows"
        )
    return found


def _watched(requests: Requests) -> Observations:
    """Steps by the tokens that came together."""
    sent = [(float(due), -1, row) for row, due in enumerate(requests.due_ms) if len(requests.token_ms[row])]
    came = [(float(at), place, row) for row in range(len(requests)) for place, at in enumerate(requests.token_ms[row])]
    watcher = StepWatcher()
    rows: list[tuple[float, float, float, float]] = []
    for at, place, row in sorted(sent + came):
        if place < 0:
            watcher.sent(row, int(requests.prompt_tokens[row]), at)
            continue
        steps = [watcher.spoke(row, 1, first=place == 0, now_ms=at)]
        if place == len(requests.token_ms[row]) - 1:
            steps.append(watcher.ended(row))
        rows += [(one.batch_size, one.tokens, one.duration_ms, one.context_tokens) for one in steps if one is not None]
    return _observations(rows)


def _means(requests: Requests) -> Observations:
    """One mean step for each request that was served."""
    served = np.flatnonzero((requests.finish_code == LENGTH) & np.isfinite(requests.tpot_ms))
    first = requests.due_ms + requests.ttft_ms
    last = requests.due_ms + requests.e2e_ms
    tpot = requests.tpot_ms
    rows = []
    for row in served[requests.output_tokens[served] >= FEWEST_TOKENS]:
        start, end = first[row], last[row]
        if not end > start:
            continue
        beside = _overlap(first[served], last[served], start, end)
        decoded = beside / np.maximum(tpot[served], 1e-9)
        prefilled = _overlap(requests.due_ms[served], first[served], start, end)
        prefill_ms = np.maximum(requests.ttft_ms[served], 1e-9)
        prompts = requests.prompt_tokens[served] * prefilled / prefill_ms
        steps = float(requests.output_tokens[row] - 1)
        context = requests.prompt_tokens[served] + requests.output_tokens[served] / 2.0
        share = beside / (end - start)
        texts = float(share.sum())
        rows.append((texts, float(decoded.sum() + prompts.sum()) / steps, tpot[row], float((share * context).sum())))
    return _observations(rows)


def _overlap(starts: NDArray[np.float64], ends: NDArray[np.float64], start: float, end: float) -> NDArray[np.float64]:
    """How long each interval and one have in common."""
    common: NDArray[np.float64] = np.clip(np.minimum(ends, end) - np.maximum(starts, start), 0.0, None)
    return common


def _observations(rows: list[tuple[float, float, float, float]]) -> Observations:
    kept = [row for row in rows if row[2] > 0 and row[0] >= 1 and row[1] >= 1]
    B, S, T, C = np.array(kept, np.float64).reshape(-1, 4).T
    return Observations.of(B, S, T, C)
