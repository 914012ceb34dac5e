"""The LitServe example's API with a scripted tuner, at a port: small batches at first, large ones from then on."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "examples")]

from adapter_tuners import ScriptedTuner  # noqa: E402
from litserve import LitServer  # noqa: E402
from litserve_tuned import Doubling  # noqa: E402

from batchpilot.core import Limits  # noqa: E402
from batchpilot.serving.adapters.litserve_loop import TunedLoop  # noqa: E402
from batchpilot.serving.session.session import TunerSession  # noqa: E402

SMALL, LARGE = 2, 32


class AfterBatches(ScriptedTuner):
    """Moves on after windows in which something was answered, however long that takes."""

    def tell(self, metrics):
        """Hear a window."""
        if metrics.completions:
            super().tell(metrics)


def session() -> TunerSession:
    """Made by the worker."""
    return TunerSession(AfterBatches(Limits(SMALL), Limits(SMALL), Limits(LARGE)), window_ms=250.0)


if __name__ == "__main__":
    loop = TunedLoop(session)
    api = Doubling(max_batch_size=8, batch_timeout=0.002, loop=loop)
    LitServer(api, accelerator="cpu").run(port=int(sys.argv[1]), generate_client_file=False)
