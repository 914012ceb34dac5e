"""A policy from its file: read and checked on numpy alone, run behind ask and tell, safety rails around it."""

from batchpilot.tuners.policy.file import PolicyFile, read_policy
from batchpilot.tuners.policy.loading import load_policy
from batchpilot.tuners.policy.tuner import PolicyTuner

__all__ = ["load_policy", "read_policy", "PolicyFile", "PolicyTuner"]
