"""Servers as processes: started with limits, asked whether they are ready, stopped. One server a file."""

from batchpilot.servers.base import ServerKind
from batchpilot.servers.kinds import KINDS
from batchpilot.servers.process import StartError, running

__all__ = ["KINDS", "ServerKind", "StartError", "running"]
