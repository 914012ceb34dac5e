"""What tuners must beat: fixed limits, AIMD, the guarded default and the field's controllers, all in `BASELINES`."""

from batchpilot.baselines.controllers.aimd import AIMDTuner
from batchpilot.baselines.dispatch.accumulating import accumulating
from batchpilot.baselines.guarded import GuardedTuner
from batchpilot.baselines.registry import BASELINES
from batchpilot.baselines.rule import Rule, RuleTuner
from batchpilot.baselines.setting import Setting
from batchpilot.baselines.static import SERVER_DEFAULT, StaticTuner

__all__ = [
    "BASELINES",
    "Setting",
    "SERVER_DEFAULT",
    "StaticTuner",
    "AIMDTuner",
    "GuardedTuner",
    "Rule",
    "RuleTuner",
    "accumulating",
]
