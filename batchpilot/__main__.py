"""`python -m batchpilot` is the `batchpilot` command."""

from batchpilot.runners.main import app

if __name__ == "__main__":
    app(prog_name="batchpilot")
