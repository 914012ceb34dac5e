"""Limits in the words of servers: read from command lines and files, written as flags. One server a file."""

from batchpilot.serving.formats.flags.base import ServerFlags, Started
from batchpilot.serving.formats.flags.servers import SERVERS, named_in

__all__ = ["SERVERS", "ServerFlags", "Started", "named_in"]
