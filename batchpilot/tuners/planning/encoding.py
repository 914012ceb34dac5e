"""What encoding images costs an engine, as its windows tell: of how many requests, and how long. Times in ms.

A server counts images and the time that their encoding took; it names no request that has one. So of the requests to
come some, drawn by chance, have an image that is to be encoded, and each such image takes the mean time.
"""

from __future__ import annotations

from batchpilot.core import WindowMetrics
from batchpilot.tuners.planning.remembered import Remembered


class Encoding:
    """Encoding in the recent past.

    Attributes:
        recent: images that were encoded, the time of that in ms, and prompt tokens that were let in.
    """

    def __init__(self) -> None:
        self.recent = Remembered(3)

    def hear(self, metrics: WindowMetrics) -> None:
        """Remember a window.

        Args:
            metrics: of a window.
        """
        encoded = metrics.images - metrics.image_hits
        self.recent.hear(metrics.end_ms, encoded, metrics.encode_ms, metrics.admitted_prompt_tokens)

    @property
    def image_ms(self) -> float:
        """Mean time of an image that was encoded; 0 where none was, or where windows tell of none."""
        encoded, encode_ms, _ = self.recent.sums()
        return encode_ms / encoded if encoded > 0 else 0.0

    def share(self, mean_prompt: float) -> float:
        """Share of the requests let in whose image had to be encoded, 0 to 1.

        Args:
            mean_prompt: prompt tokens of a request, > 0: windows count the tokens that were let in, not the requests.
        """
        return min(self._each(mean_prompt), 1.0)

    def request_ms(self, mean_prompt: float) -> float:
        """Mean time of the images of a request that has some to be encoded: of one, or of several where they are more.

        Args:
            mean_prompt: prompt tokens of a request, > 0.
        """
        return self.image_ms * max(self._each(mean_prompt), 1.0)

    def _each(self, mean_prompt: float) -> float:
        """Images that were encoded for each request that was let in."""
        encoded, encode_ms, tokens = self.recent.sums()
        return float(encoded * mean_prompt / tokens) if encode_ms > 0 and tokens > 0 else 0.0
