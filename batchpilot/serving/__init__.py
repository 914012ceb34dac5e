"""What a server imports: any tuner by name, and the words to speak with it. Light: no numba, gymnasium, scipy or torch.

Two calls are all a server needs: `tuner.ask()` before a measurement window, `tuner.tell(window_metrics)` after it.
`load_policy(path)` gives a trained one, and `TunerSession` makes the windows from a server's raw events; `rehearse` has
a tuner's code compiled before there is load.
"""

from batchpilot.configs.tuner_files import load_tuner_config
from batchpilot.core import SLO, Limits, Tuner, WindowMetrics
from batchpilot.serving.rehearsal import rehearse
from batchpilot.serving.session.engine import EngineFacts
from batchpilot.serving.session.session import TunerSession
from batchpilot.tuners import make_tuner
from batchpilot.tuners.policy import load_policy

__all__ = [
    "load_policy",
    "make_tuner",
    "rehearse",
    "load_tuner_config",
    "TunerSession",
    "EngineFacts",
    "Limits",
    "WindowMetrics",
    "SLO",
    "Tuner",
]
