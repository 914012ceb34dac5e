"""The command line: nothing but parsing, progress and writing results."""
