"""`batchpilot serve`: what was asked, and the server made of it."""
