"""A clock and a tuner that do as they are told, for tests of sessions."""

from batchpilot.core import Tuner


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.ms = 0.0

    def __call__(self):
        return self.ms / 1000.0


class Scripted(Tuner):
    """Asks for one limits after the other and remembers what it heard; raises in the windows it is told to."""

    needs_details = True

    def __init__(self, *limits, raises=(), gate=None):
        self.script, self.raises, self.gate = limits, raises, gate
        self.heard, self.studied = [], []

    def ask(self):
        return self.script[min(len(self.heard), len(self.script) - 1)]

    def study(self, details):
        self.studied.append(details)

    def tell(self, metrics):
        if self.gate is not None:
            self.gate.wait(5.0)
        self.heard.append(metrics)
        if len(self.heard) in self.raises:
            raise RuntimeError("a bug in the tuner")

    def reset(self, seed=None):
        self.heard = []

    def status(self):
        return {"reason": f"after {len(self.heard)} windows"}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
