"""Requests that were served too late or failed, a JSON object a line: what an operator reads the morning after.

A disk that is full ends the log and nothing else. Who asked and what is not written. Times in ms.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

from batchpilot.core import SLO
from batchpilot.core.files import json_text
from batchpilot.serving.gateway.waiting import Ticket

LINES_PER_S = 20
"""Under overload everybody may be late, and a log of all of them would make them later."""

LARGEST_MB = 16.0
"""Of the file and the one before it, together."""

_LOG = logging.getLogger(__name__)


class LateLog:
    """Appends to a file of bounded size; half full, it becomes `NAME.1` in the place of the one before.

    Args:
        path: the file; one that is there is continued.
        clock: wall time, s since 1970.

    Attributes:
        left_out: lines that came too fast to be written, since the last one that was.
        fault: why the log ended by itself, None while nothing went wrong.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.left_out = 0
        self.fault: str | None = None
        self._clock = clock
        self._handler = RotatingFileHandler(path, maxBytes=int(LARGEST_MB * 5e5), backupCount=1, encoding="utf-8")
        self._handler.handleError = self._fail  # type: ignore[method-assign]
        self._second, self._lines = -1, 0

    def late(self, ticket: Ticket, slo: SLO, ttft_ms: float, tpot_ms: float, tokens: int, upstream: str) -> None:
        """A request was served, but not as promised.

        Args:
            ticket: its ticket.
            slo: its promise.
            ttft_ms: from its arrival to its first token.
            tpot_ms: per token after the first, NaN for fewer than two.
            tokens: that it said.
            upstream: which one served it, "" where there is but one.
        """
        waited_ms = max(ticket.sent_ms - ticket.arrived_ms, 0.0)
        self._write(
            {
                **self._asked(ticket, upstream),
                "output_tokens": tokens,
                "ttft_ms": round(ttft_ms, 1),
                "tpot_ms": None if math.isnan(tpot_ms) else round(tpot_ms, 2),
                "promised_ttft_ms": slo.ttft_ms,
                "promised_tpot_ms": slo.tpot_ms,
                "waited_ms": round(waited_ms, 1),
                "crowd": round(ticket.crowd / ticket.spoken_tokens, 1) if ticket.spoken_tokens else None,
                "why": reason(ticket, slo, ttft_ms, tpot_ms),
            }
        )

    def failed(self, ticket: Ticket, why: str, upstream: str) -> None:
        """The upstream failed a request.

        Args:
            ticket: its ticket.
            why: in words.
            upstream: which one, "" where there is but one.
        """
        self._write({**self._asked(ticket, upstream), "why": why})

    def close(self) -> None:
        """Write no more."""
        self._handler.close()

    def _asked(self, ticket: Ticket, upstream: str) -> dict[str, object]:
        asked = ticket.completion
        told = {"model": asked.model, "upstream": upstream}
        return {
            "time_s": round(self._clock(), 3),
            "request": ticket.number,
            **{name: value for name, value in told.items() if value},
            "prompt_tokens": asked.prompt_tokens,
            "max_tokens": asked.max_tokens,
        }

    def _write(self, told: dict[str, object]) -> None:
        second = int(self._clock())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        if self.fault is not None or self._lines > LINES_PER_S:
            self.left_out += 1
            return
        if self.left_out:
            told["left_out_before"], self.left_out = self.left_out, 0
        line = json_text(told)
        self._handler.emit(logging.LogRecord(__name__, logging.WARNING, "", 0, line, None, None))

    def _fail(self, record: logging.LogRecord) -> None:
        self.fault = str(sys.exc_info()[1])
        _LOG.error("the log of late requests has ended: %s", self.fault)


def reason(ticket: Ticket, slo: SLO, ttft_ms: float, tpot_ms: float) -> str:
    """Why a request was late, in words.

    Args:
        ticket: its ticket.
        slo: its promise.
        ttft_ms: from its arrival to its first token.
        tpot_ms: per token after the first, NaN for fewer than two.
    """
    told = []
    if ttft_ms > slo.ttft_ms:
        waited_ms = max(ticket.sent_ms - ticket.arrived_ms, 0.0)
        if waited_ms > ttft_ms - waited_ms:
            told.append(f"waited {waited_ms:.0f} of {ttft_ms:.0f} ms at the gateway")
        else:
            told.append(
                f"{ttft_ms - waited_ms:.0f} of {ttft_ms:.0f} ms at the server, behind {ticket.ahead_tokens:,} prompt "
                "tokens without an answer"
            )
    if tpot_ms > slo.tpot_ms:
        crowd = ticket.crowd / ticket.spoken_tokens if ticket.spoken_tokens else math.nan
        told.append(f"{tpot_ms:.0f} ms a token" + ("" if math.isnan(crowd) else f" beside {crowd:.0f} requests"))
    return "; ".join(told)
