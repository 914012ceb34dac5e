"""Learned agents: adapters, training and export. Each module imports its heavy libraries itself."""
