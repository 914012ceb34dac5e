"""Property tests draw the same examples everywhere; `HYPOTHESIS_PROFILE=search` looks for new ones.

A shell ignores Ctrl-C in what it runs in the background, and whoever is started there inherits that: tests that press
Ctrl-C start commands as a terminal would.
"""

import os
import signal

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=500, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
