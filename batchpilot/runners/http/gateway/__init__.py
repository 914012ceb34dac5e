"""`batchpilot gateway`: what was asked, its upstreams, and how it runs."""
