"""`batchpilot tune`: a study over whole runs."""
