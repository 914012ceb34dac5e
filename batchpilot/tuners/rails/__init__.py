"""Safety rails: `RailedTuner` puts them around any tuner, one small rule a module."""

from batchpilot.tuners.rails.bounds import Bounds
from batchpilot.tuners.rails.collapse import CollapseGuard
from batchpilot.tuners.rails.idle import Idle
from batchpilot.tuners.rails.kv_memory import KVMemory
from batchpilot.tuners.rails.out_of_memory import OutOfMemory
from batchpilot.tuners.rails.rail import Rail
from batchpilot.tuners.rails.railed import RailedTuner
from batchpilot.tuners.rails.trained_range import TrainedRange

__all__ = ["RailedTuner", "Rail", "Bounds", "KVMemory", "OutOfMemory", "TrainedRange", "Idle", "CollapseGuard"]
