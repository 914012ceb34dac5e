"""`batchpilot plan`: limits and devices for a load."""
