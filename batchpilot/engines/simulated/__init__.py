"""The simulated executor: plans take T(B, S, C). `simulate`, the twin, and designs of steps to measure."""
