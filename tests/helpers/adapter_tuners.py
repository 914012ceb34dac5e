"""Tuners that the adapters' tests need."""

from batchpilot.core import Limits, Tuner


class ScriptedTuner(Tuner):
    """Gives limits one after another, a window each; then the last of them, or an exception."""

    name = "scripted"

    def __init__(self, *limits: Limits, then_raises: bool = False) -> None:
        self.script, self.then_raises = list(limits), then_raises
        self.heard = []

    def ask(self):
        return self.script[0]

    def tell(self, metrics):
        self.heard.append(metrics)
        if len(self.script) > 1:
            self.script.pop(0)
        elif self.then_raises:
            raise RuntimeError("this tuner is broken")

    def reset(self, seed=None):
        """Nothing to forget."""

    def status(self):
        return {"reason": "scripted"}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        """Nothing to load."""


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def pass_ms(self, time_ms: float) -> None:
        self.now_s += time_ms / 1000.0
