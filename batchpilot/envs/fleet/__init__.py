"""A fleet as an environment: replicas, routing and limits decided once an interval."""
