#!/usr/bin/env bash
# ray 2.60.0: serve.batch closes batches while the one before still runs, so that they stay small however many calls wait.
#
# A batch is closed when batch_wait_timeout_s has passed since its first call, whether or not it can run then; only after that it
# waits for the batch before it. Calls that come while it waits go into batches of their own.
#
# Here 30 calls come 20 ms apart, with room for 100 in a batch, a wait of 10 ms, and a handler that takes 0.2 s for any batch.
# Taking what waits whenever the handler is free would need five batches, and end after 1 s instead of 6.
#
# Seen: the two lines that are compared below; in the second case each call ran alone.
# Why it matters: that is a server under the load for which it batches. It could answer hundreds a second and answers five, and its
# queue grows. A longer wait makes the batches larger, and every call slower where nobody else comes.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv v; v/bin/pip install --quiet 'ray[serve]==2.60.0' 2>/dev/null
cat >see.py <<'PY'
import asyncio
import time

import ray
from ray import serve


@serve.deployment(max_ongoing_requests=100)
class Model:
    @serve.batch(max_batch_size=100, batch_wait_timeout_s=0.01)
    async def __call__(self, inputs):
        await asyncio.sleep(0.2)
        return [len(inputs)] * len(inputs)


def batches(handle, gap_s):
    answers = []
    for number in range(30):
        answers.append(handle.remote(number))
        time.sleep(gap_s)
    return round(sum(1 / answer.result() for answer in answers))


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
handle = serve.run(Model.bind(), route_prefix=None)
handle.remote(0).result()
together, apart = batches(handle, 0.0), batches(handle, 0.02)
print(f"30 calls at once: {'at most 10' if together <= 10 else together} batches")
print(f"30 calls, 20 ms apart: {'25 to 30' if apart >= 25 else apart} batches")
serve.shutdown()
ray.shutdown()
PY
v/bin/python see.py 2>/dev/null | grep calls | tee seen.txt
diff seen.txt - <<'TXT'
30 calls at once: at most 10 batches
30 calls, 20 ms apart: 25 to 30 batches
TXT
