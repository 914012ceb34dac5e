"""Result files of load tests, whoever sent the load, in one shape. One format a file."""

from batchpilot.serving.formats.results.base import ImportedRun, Requests
from batchpilot.serving.formats.results.read import FORMATS, read_results

__all__ = ["read_results", "FORMATS", "ImportedRun", "Requests"]
