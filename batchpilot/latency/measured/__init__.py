"""Step latencies composed from measured operators: queried on a grid, fitted, judged, kept as a few numbers."""
