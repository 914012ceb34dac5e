"""What a server drafts by itself, as its windows tell: how many tokens at a time, and how many of them stand.

Only drafts that no limit asks for: a server was started with them. What they cost is in the steps that are heard.
"""

from __future__ import annotations

from batchpilot.core import WindowMetrics
from batchpilot.core.speculation import Speculation
from batchpilot.tuners.planning.remembered import Remembered

_BISECTIONS = 40


class Drafting:
    """Drafts in the recent past.

    Attributes:
        recent: drafts, their tokens, and those that stood.
    """

    def __init__(self) -> None:
        self.recent = Remembered(3)

    def hear(self, metrics: WindowMetrics) -> None:
        """Remember a window.

        Args:
            metrics: of a window.
        """
        own = metrics.limits.speculative_tokens == 0
        counts = (metrics.drafts, metrics.drafted_tokens, metrics.accepted_tokens) if own else (0, 0, 0)
        self.recent.hear(metrics.end_ms, *counts)

    @property
    def speculation(self) -> Speculation | None:
        """How the server's own drafts fare, each token as likely as the others; None where it makes none."""
        drafts, drafted, accepted = self.recent.sums()
        length = round(drafted / drafts) if drafts > 0 else 0
        if length < 1:
            return None
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            few = Speculation(acceptance=middle).expected_tokens(length) - 1.0 < accepted / drafts
            low, high = (middle, high) if few else (low, middle)
        return Speculation(acceptance=low, draft_share=0.0, drafted=length)

    @property
    def tokens_a_step(self) -> float:
        """Mean tokens that a request says in a step."""
        drafts, _, accepted = self.recent.sums()
        return 1.0 + accepted / drafts if drafts > 0 else 1.0
