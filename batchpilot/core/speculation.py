"""What is known of a drafter: how often its tokens are accepted, and what drafting costs."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Speculation:
    """How drafts fare. The default is a small draft model's on summaries.

    Attributes:
        acceptance: probability that the first token of a draft is accepted, 0-1.
        decay: factor by which it falls from each token of a draft to the next, given that all before were accepted,
            0-1; 1 for the same at every place.
        draft_share: what a step of the drafter takes, as a share of the model's own step with one token for each of
            the requests that draft; k tokens take k of them. 0 for prompt lookup, whose search takes next to nothing.
        drafted: tokens drafted for each decoding request where the limits ask for none, >= 0: what a server was started
            with.

    Raises:
        ValueError: a value is outside its bound.

    Source: Leviathan, Kalman, Matias, "Fast Inference from Transformers via Speculative Decoding" (2023), table 2:
    acceptance 0.65 for T5-small drafting for T5-XXL on CNN/DailyMail, greedy; section 3.6: the drafter's share of a
    step is below 0.05.
    """

    acceptance: float = 0.65
    decay: float = 1.0
    draft_share: float = 0.05
    drafted: int = 0

    def __post_init__(self) -> None:
        for name in ("acceptance", "decay"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}; it must be a probability, 0 to 1")
        if not (math.isfinite(self.draft_share) and self.draft_share >= 0):
            raise ValueError(f"draft_share is {self.draft_share}; it must be >= 0, 0 for prompt lookup")
        if self.drafted < 0:
            raise ValueError(f"drafted is {self.drafted}; it must be >= 0 tokens, 0 for no drafts of the server's own")

    def expected_tokens(self, drafted: int) -> float:
        """Mean tokens that a verified draft gives, the one after the accepted ones included.

        Args:
            drafted: tokens of the draft, >= 0.
        """
        expected, reached, here = 1.0, 1.0, self.acceptance
        for _ in range(drafted):
            reached *= here
            expected += reached
            here *= self.decay
        return expected
