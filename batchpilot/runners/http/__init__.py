"""Commands that speak HTTP: `batchpilot serve`, `gateway` and `load`."""
