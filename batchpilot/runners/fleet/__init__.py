"""`batchpilot fleet`: several replicas behind a router, compared."""
