"""Commands and options of the real torch engine."""
