"""The tuner of a server whose tuner can be changed: one decides, another may be on trial, a third may advise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core import Limits, Tuner, WindowMetrics
from batchpilot.core.details import WindowDetails
from batchpilot.serving.rollout.canary import Canary, Record
from batchpilot.serving.rollout.shadow import Shadow
from batchpilot.tuners import NotObeyedError


class StagedTuner(Tuner):
    """Asks whoever decides now, and tells everybody.

    Args:
        decider: decides.

    Attributes:
        decider: decides, except for the windows of a trial.
        candidate: on trial, None without one.
        shadow: advises, None without one.
    """

    needs_details = True

    def __init__(self, decider: Tuner) -> None:
        self.decider = decider
        self.candidate: Tuner | None = None
        self.shadow: Shadow | None = None
        self._canary: Canary | None = None
        self._record = Record()

    @property
    def name(self) -> str:  # type: ignore[override]
        """That of the decider."""
        return self.decider.name

    @property
    def trial(self) -> dict[str, Any] | None:
        """How the trial goes, or how the last one went; None before the first."""
        if self._canary is None:
            return None
        candidate = None if self.candidate is None else self.candidate.name
        return {"candidate": candidate, **self._canary.status()}

    def decide_by(self, tuner: Tuner) -> None:
        """Another tuner decides from now on; a trial ends.

        Args:
            tuner: the new one.
        """
        self.withdraw("another tuner was chosen")
        self.decider = tuner
        self._record = Record()

    def try_out(self, tuner: Tuner, share: float, promote_after: int) -> None:
        """Put a tuner on trial; an earlier trial ends.

        Args:
            tuner: the candidate.
            share: of the windows it decides.
            promote_after: judged windows after which it stays.

        Raises:
            ValueError: a value is outside its bound; an earlier trial goes on then.
        """
        self._canary = Canary(share, self._record, promote_after)
        self.candidate = tuner

    def withdraw(self, reason: str) -> bool:
        """End the trial.

        Args:
            reason: why.

        Returns:
            Whether there was one.
        """
        if self.candidate is None or self._canary is None:
            return False
        self._canary.fail(reason)
        self.candidate = None
        return True

    def ask(self) -> Limits:
        """The limits of whoever decides now."""
        return self._now().ask()

    def study(self, details: WindowDetails) -> None:
        """Tell everybody who studies.

        Args:
            details: of a window.
        """
        if self.shadow is not None:
            self.shadow.study(details)
        if self.candidate is not None and self.candidate.needs_details:
            self._on_trial(self.candidate, lambda tuner: tuner.study(details))
        if self.decider.needs_details:
            self.decider.study(details)

    def tell(self, metrics: WindowMetrics) -> None:
        """Tell everybody and judge the trial; what a candidate raises ends it.

        Args:
            metrics: any window.
        """
        if self.shadow is not None:
            self.shadow.hear(metrics)
        if self.candidate is not None and self._canary is not None:
            self._hear_trial(self.candidate, self._canary, metrics)
        else:
            self._record.add(metrics)
        self.decider.tell(metrics)

    @property
    def estimate(self) -> NDArray[np.float64] | None:
        """That of whoever decides now."""
        return self._now().estimate

    def reset(self, seed: int | None = None) -> None:
        """Let the decider forget; a trial ends.

        Args:
            seed: as the decider takes it.
        """
        self.withdraw("the tuner was reset")
        self.decider.reset(seed)
        self._record = Record()

    def reset_to_safe_state(self) -> None:
        """Let the decider forget and go to its safe state, where it has one and may move; a trial ends."""
        self.withdraw("the tuner was reset")
        try:
            getattr(self.decider, "reset_to_safe_state", self.decider.reset)()
        except NotObeyedError:
            self.decider.reset()
        self._record = Record()

    def status(self) -> dict[str, Any]:
        """That of whoever decides now."""
        return self._now().status()

    def state_dict(self) -> dict[str, Any]:
        """The decider's."""
        return self.decider.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the decider go on from a saved state.

        Args:
            state: what `state_dict` returned.
        """
        self.decider.load_state_dict(state)

    def _now(self) -> Tuner:
        trying = self.candidate is not None and self._canary is not None and self._canary.new_decides
        return self.candidate if trying and self.candidate is not None else self.decider

    def _hear_trial(self, candidate: Tuner, canary: Canary, metrics: WindowMetrics) -> None:
        self._on_trial(candidate, lambda tuner: (tuner.tell(metrics), tuner.ask().batch_size))
        if self.candidate is None:
            return
        canary.hear(metrics)
        if canary.verdict == "promoted":
            self.decider, self.candidate = candidate, None
            self._record = Record()
        elif canary.verdict == "rolled back":
            self.candidate = None

    def _on_trial(self, candidate: Tuner, action: Any) -> None:
        try:
            action(candidate)
        except Exception as error:  # noqa: BLE001 (whatever a candidate raises ends its trial)
            self.withdraw(f"it raised {type(error).__name__}: {error}")
