"""The mix of work: prompt tokens computed for each token generated, in a sample against the load's long run.

Generated tokens per second fall whenever prompts happen to be computed, whatever the batch size: on slow devices a few
prompts more or less decide a window's score. The long-run mix belongs to the load, not to the batch size, so a sample
is representative once its own mix has come close to it; until then more windows are averaged. Prompt tokens that are
not reported count as none, and then every window is representative.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TOLERANCE = 0.4
FORGETTING = 0.98


class WorkMix:
    """Prompt and generated tokens of the last fifty windows or so."""

    def __init__(self) -> None:
        self._prefill_tokens = 0.0
        self._generated_tokens = 0.0

    def observe(self, prefill_tokens: float, generated_tokens: float) -> None:
        """Hear one window.

        Args:
            prefill_tokens: prompt tokens computed.
            generated_tokens: output tokens emitted.
        """
        self._prefill_tokens = FORGETTING * self._prefill_tokens + prefill_tokens
        self._generated_tokens = FORGETTING * self._generated_tokens + generated_tokens

    def is_represented(self, prefill_tokens: float, generated_tokens: float) -> bool:
        """Whether a sample's mix is within two fifths of the load's.

        Args:
            prefill_tokens: prompt tokens computed in the sample.
            generated_tokens: output tokens emitted in it.
        """
        here = prefill_tokens * self._generated_tokens
        usual = self._prefill_tokens * generated_tokens
        return abs(here - usual) <= TOLERANCE * usual

    def state_dict(self) -> dict[str, Any]:
        """The sums as plain data."""
        return {"prefill_tokens": self._prefill_tokens, "generated_tokens": self._generated_tokens}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved sums.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: a field is missing.
        """
        self._prefill_tokens, self._generated_tokens = state["prefill_tokens"], state["generated_tokens"]
