"""What tuners must beat: fixed limits, AIMD, and the guarded default. `BASELINES` names what builds each."""

from batchpilot.baselines.accumulating import accumulating
from batchpilot.baselines.aimd import AIMDTuner
from batchpilot.baselines.guarded import GuardedTuner
from batchpilot.baselines.registry import BASELINES, Setting
from batchpilot.baselines.static import SERVER_DEFAULT, StaticTuner

__all__ = ["BASELINES", "Setting", "SERVER_DEFAULT", "StaticTuner", "AIMDTuner", "GuardedTuner", "accumulating"]
