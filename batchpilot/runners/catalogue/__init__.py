"""`batchpilot catalogue`: latencies of devices and models, built from measured operators."""
