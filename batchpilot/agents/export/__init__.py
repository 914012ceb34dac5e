"""Export: a training folder in, one checked policy file out. Needs the extra `rl`."""
