"""`batchpilot export-scaler`: the decision as others execute it."""
