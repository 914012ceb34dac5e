"""Every strategy on the same requests: running, comparing, judging."""
