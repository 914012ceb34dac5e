"""When to dispatch a batch: the batch-service queue, its exact optimum, and the rules that stand in for it."""
