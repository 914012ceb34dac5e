"""What stands before `batchpilot serve` and `batchpilot gateway`: who may ask, how much, for how long."""
