"""P-PAS: a large token budget while few prompts are under way, a small one for prompts while others decode.

The source decides in each step of vLLM: with two prompts or more waiting or under way, and somebody decoding, prompts
get 2,048 tokens of the step, otherwise all of `max_num_batched_tokens`, 16,384 there. Here it is decided once a window,
by means over its steps: who decodes says one token a step, and who is in a step beside those computes a prompt. The
budget of a step holds the decoding ones, too, so that they are added.

Source: P-PAS, Prefill-Pressure Adaptive Scheduling (arXiv 2608.15171; vLLM issue 52906), its evaluated constants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchpilot.core import Limits, WindowMetrics

MOST_PREFILLS = 2
"""So many prompts, waiting or under way, are pressure."""

FREE_BUDGET, BUDGET_UNDER_PRESSURE = 16_384, 2048


@dataclass
class PrefillPressureRule:
    """The budgets.

    Attributes:
        base: limits whose other fields are kept.
    """

    base: Limits

    def start(self) -> Limits:
        """No pressure is known."""
        return self.base.replace(token_budget=self._free)

    def decide(self, window: WindowMetrics, limits: Limits) -> tuple[Limits, str]:
        """Tell the pressure, and take its budget.

        Args:
            window: the window.
            limits: the limits in force.
        """
        decoding = window.generated_tokens / window.steps if window.steps else 0.0
        prefills = window.queue + max(window.batch_size_mean - decoding, 0.0)
        pressed = prefills >= MOST_PREFILLS and decoding > 0
        budget = min(BUDGET_UNDER_PRESSURE + math.ceil(decoding), self._free) if pressed else self._free
        return limits.replace(token_budget=budget), f"{prefills:.1f} prompts beside {decoding:.1f} that decode"

    @property
    def _free(self) -> int:
        return max(self.base.token_budget or 0, FREE_BUDGET)
