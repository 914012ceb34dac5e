"""`batchpilot calibrate` on measurements: fit, judge, report."""
