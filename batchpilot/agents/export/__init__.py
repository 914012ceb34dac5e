"""Export: a training folder or an agent in, one checked policy file out. Needs the extra `rl`."""
