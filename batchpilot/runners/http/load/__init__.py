"""`batchpilot load`: what was asked, the columns that it runs, and how they are told."""
