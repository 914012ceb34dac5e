#!/usr/bin/env bash
# inference-perf 0.7.0: load of type "constant" comes as irregularly as Poisson's, and "poisson" at low rates on whole seconds.
#
# The gaps of "constant" are drawn from an exponential distribution and only stretched, so that the last request comes at the end
# of the stage. "poisson" draws a number of requests for each second, and stretches their gaps so that the last of them comes at
# the end of that second: of a single request a second, all do.
#
# Seen: the two lines that are compared below. Even gaps would vary by 0.0 of their mean and none would be shorter than half of it;
# a Poisson process has none of its requests at a whole second.
# Why it matters: a constant rate is taken to see a server without bursts, and a Poisson process to see what bursts cost; compared
# by these two, bursts cost nothing. At rates below one a second, at which large models are measured, requests fall on the second.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3.12 -m venv v; v/bin/pip install --quiet inference-perf==0.7.0 2>/dev/null  # it asks for Python 3.12
cat >see.py <<'PY'
from itertools import islice

import numpy as np

from inference_perf.loadgen.load_timer import ConstantLoadTimer, PoissonLoadTimer

gaps = np.diff(list(ConstantLoadTimer(rate=10, duration=3000).start_timer(0.0)))
short = np.mean(gaps < gaps.mean() / 2)
spread = gaps.std() / gaps.mean()
print(f"constant, 10 a second: gaps vary by {spread:.1f} of their mean, {short:.1f} of them shorter than half of it")
times = np.array(list(islice(PoissonLoadTimer(rate=0.5, duration=60).start_timer(0.0), 10_000)))
whole = np.mean(np.abs(times - times.round()) < 1e-6)
print(f"poisson, 0.5 a second: {whole:.1f} of the requests at a whole second")
PY
v/bin/python see.py 2>/dev/null | tee seen.txt
diff seen.txt - <<'TXT'
constant, 10 a second: gaps vary by 1.0 of their mean, 0.4 of them shorter than half of it
poisson, 0.5 a second: 0.8 of the requests at a whole second
TXT
