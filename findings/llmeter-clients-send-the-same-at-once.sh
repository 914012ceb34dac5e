#!/usr/bin/env bash
# llmeter 0.2.0: clients shuffle their payloads with one seed, so all of them send the same prompt at the same time.
#
# Each client shuffles the payloads before it sends them, and seeds the generator with 0 for that: all have the same order, whatever
# random.seed was called with. Clients that are answered at the same pace stay abreast.
#
# Here 8 clients send 40 different prompts, each once, to an endpoint that takes 20 ms for any.
#
# Seen: the line that is compared below.
# Why it matters: a server with a prefix cache computes one prompt of eight, and finds the others in what it has just computed: time
# to first token and input throughput are those of a load that nobody has, and the more clients there are, the better.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv v; v/bin/pip install --quiet --no-deps llmeter==0.2.0 2>/dev/null
v/bin/pip install --quiet boto3==1.44.8 jmespath==1.1.0 tqdm==4.70.1 universal-pathlib==0.3.10 2>/dev/null
cat >see.py <<'PY'
import asyncio
import random
import threading
import time
from collections import defaultdict

from llmeter.endpoints.base import Endpoint, InvocationResponse
from llmeter.runner import Runner

sent = defaultdict(list)


class Recording(Endpoint):
    def __init__(self):
        super().__init__("recording", "model", "none")

    def invoke(self, payload):
        sent[threading.get_ident()].append(payload["prompt"])
        time.sleep(0.02)
        return InvocationResponse(response_text="a", input_prompt=payload["prompt"], num_tokens_input=1, num_tokens_output=1)

    def process_raw_response(self, raw_response, start_t, response):
        pass


random.seed(7)
prompts = [{"prompt": f"prompt {number}"} for number in range(40)]
asyncio.run(Runner(Recording(), payload=prompts, clients=8).run())
print(f"{len(sent)} clients, {len({tuple(order) for order in sent.values()})} order of {len(prompts)} prompts")
PY
LLMETER_DISABLE_ALL_PROGRESS_BARS=1 v/bin/python see.py 2>/dev/null | tail -1 | tee seen.txt
diff seen.txt - <<'TXT'
8 clients, 1 order of 40 prompts
TXT
