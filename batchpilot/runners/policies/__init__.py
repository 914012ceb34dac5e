"""`batchpilot train`, `export` and `policy`."""
