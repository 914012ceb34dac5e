"""Steps that a server has run, written as they end: what `batchpilot calibrate FILE` reads. Times in ms.

A killed writer may leave half a line behind. The last column is one that no fit reads, so a line that has begun it is
whole, and the next writer ends it; a reader leaves out a last line that has not, and the next writer cuts it off.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

COLUMNS = ("batch_size", "tokens", "context_tokens", "latency_ms", "model", "ended_s")
"""Requests B, tokens computed S, context tokens C, time T, the model where an upstream has several, and the wall clock
at the end, s since 1970."""

LARGEST_MB = 64.0
"""Of the file and the one before it together: about 1.5 million steps."""

_HELD_S = 1.0

_HEADER = (",".join(COLUMNS) + "\n").encode()
_LOG = logging.getLogger(__name__)


class StepRecorder:
    """Appends steps to a CSV file of bounded size; half full, it becomes `NAME.1.csv` in the place of the one before.

    What is written reaches the file within a second, or with the next step after it. A disk that is full ends the
    recording and nothing else.

    Args:
        path: the file; one that an earlier recording left is continued.
        largest_mb: of it and the one before it together, > 0.
        clock: wall time, s since 1970.

    Attributes:
        path: the file.
        steps: that were recorded, since the first start.
        fault: why the recording ended by itself, None while nothing went wrong.

    Raises:
        ValueError: the size is not above 0.
    """

    def __init__(
        self, path: str | Path, *, largest_mb: float = LARGEST_MB, clock: Callable[[], float] = time.time
    ) -> None:
        if not largest_mb > 0:
            raise ValueError(f"a recording of at most {largest_mb} MB holds nothing; it must be above 0")
        self.path = Path(path)
        self.steps = 0
        self.fault: str | None = None
        self._most_bytes = max(largest_mb * 1e6 / 2.0, 2.0 * len(_HEADER))
        self._clock = clock
        self._file: BinaryIO | None = None
        self._unwritten: list[bytes] = []
        self._bytes = 0
        self._written_s = 0.0

    @property
    def recording(self) -> bool:
        """Whether steps are written now."""
        return self._file is not None

    @property
    def previous(self) -> Path:
        """The file before this one, which may be missing."""
        return self.path.with_name(f"{self.path.stem}.1{self.path.suffix}")

    def start(self) -> None:
        """Write steps from now on; nothing where that is done already.

        Raises:
            ValueError: the file, or the one before it, is there and holds something else.
            OSError: it cannot be written.
        """
        if self._file is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _whole_bytes(self.previous)  # it will be replaced, so it must be a recording as well
        whole = _whole_bytes(self.path)
        if whole is not None:
            _end_last_line(self.path, whole)
        self._open()
        self.fault = None

    def stop(self) -> None:
        """Write no more; the file is whole then."""
        if self._file is not None:
            try:
                self._write()
            except OSError as error:
                self._fail(error)
            else:
                self._file.close()
                self._file = None

    def hear(self, batch_size: int, tokens: int, context_tokens: int, latency_ms: float, model: str = "") -> None:
        """A step has ended; nothing is written while the recording is stopped.

        Args:
            batch_size: requests in it.
            tokens: computed in it.
            context_tokens: read by attention.
            latency_ms: its time.
            model: which model's, where there are several.
        """
        if self._file is None:
            return
        now_s = self._clock()
        line = f"{batch_size},{tokens},{context_tokens},{latency_ms:.3f},{_cell(model)},{now_s:.3f}\n".encode()
        self._unwritten.append(line)
        self._bytes += len(line)
        self.steps += 1
        try:
            if self._bytes >= self._most_bytes:
                self._write()
                self._file.close()
                self.path.replace(self.previous)
                self._open()
            elif not 0.0 <= now_s - self._written_s < _HELD_S:  # not held by a clock that was set back either
                self._write()
                self._written_s = now_s
        except OSError as error:
            self._fail(error)

    def _open(self) -> None:
        self._file = self.path.open("ab", buffering=0)
        self._bytes, self._unwritten, self._written_s = self._file.tell(), [], self._clock()
        if not self._bytes:
            self._bytes, self._unwritten = len(_HEADER), [_HEADER]
            self._write()

    def _write(self) -> None:
        assert self._file is not None
        left = b"".join(self._unwritten)
        self._unwritten = []
        while left:  # a disk that is nearly full takes a part
            left = left[self._file.write(left) :]

    def _fail(self, error: OSError) -> None:
        self.fault, self._unwritten = str(error), []
        _LOG.error("steps are no longer recorded: %s", error)
        if self._file is not None:
            self._file.close()
            self._file = None


def _whole_bytes(path: Path) -> int | None:
    """Bytes of a recording up to the end of its last whole line; None where there is none yet."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_HEADER))
            if head != _HEADER:
                if _HEADER.startswith(head):
                    return 0
                raise ValueError(
                    f"{path} is there and is no recording of steps (its first line is not {','.join(COLUMNS)}); "
                    "give another name"
                )
            end = file.seek(0, os.SEEK_END)
            while end > len(head):
                start = max(end - 65536, len(head))
                file.seek(start)
                cut = file.read(end - start).rfind(b"\n")
                if cut >= 0:
                    return start + cut + 1
                end = start
            return len(head)
    except FileNotFoundError:
        return None


def _end_last_line(path: Path, whole: int) -> None:
    """End a last line that a reader takes for whole, cut off one that it does not.

    Args:
        path: a recording.
        whole: bytes of it up to the end of its last line that was ended.
    """
    with path.open("r+b") as file:
        file.seek(whole)
        cells = next(csv.reader([file.read().decode(errors="replace")]), [])
        if whole and len(cells) == len(COLUMNS):
            file.write(b"\n")
        else:
            file.truncate(whole)


def _cell(text: str) -> str:
    """A name as a cell of a line, which it must not break."""
    if not set(text) & set(',"\r\n'):
        return text
    quoted = io.StringIO()
    csv.writer(quoted, lineterminator="").writerow((text.replace("\n", " ").replace("\r", " "),))
    return quoted.getvalue()
