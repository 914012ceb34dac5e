"""Figures, tables, charts and pages of results."""
