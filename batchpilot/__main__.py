"""`python -m batchpilot` is the `batchpilot` command."""

from batchpilot.runners.main import run

if __name__ == "__main__":
    run()
