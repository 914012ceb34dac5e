#!/usr/bin/env bash
# guidellm 0.8.1: Poisson arrivals come in runs of ten equal gaps.
#
# Each of the ten worker processes draws its gaps from a generator of its own, and all generators have the same seed. A gap is
# added to the time of the last request of any worker, so the first gap is taken ten times over, then the second, and so on.
#
# Here 50 requests are scheduled at 10 a second and answered at once; the times are those at which each was due.
#
# Seen: the line that is compared below. Of 49 gaps of a Poisson process no two are equal.
# Why it matters: gaps are as spread as they should be, so a histogram shows nothing, but short ones come ten in a row, and the
# server sees bursts and lulls that no Poisson process of that rate has. A run of 300 requests rests on 30 draws: its rate is off
# by 18 % (standard deviation) where a Poisson process is off by 6, and the seed decides whether a server keeps its promise.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv v
v/bin/pip install --quiet --no-deps guidellm==0.8.1 2>/dev/null  # the scheduler needs no torch
v/bin/pip install --quiet culsans==0.10.0 loguru msgpack more-itertools numpy==2.4.6 pydantic pydantic-settings pyyaml rich uvloop 2>/dev/null
cat >see.py <<'PY'
import asyncio
import time

from guidellm.scheduler import AsyncPoissonStrategy, BackendInterface, Scheduler
from guidellm.scheduler.schemas.conversation_graph import GenerativeConversationGraph, GenerativeConversationNode
from guidellm.schemas import GenerationRequest, GenerationResponse


class Answering(BackendInterface):
    processes_limit = requests_limit = None
    info = {}

    async def process_startup(self): ...

    async def validate(self): ...

    async def process_shutdown(self): ...

    async def resolve(self, request, request_info, history=None):
        request_info.timings.request_start = request_info.timings.request_end = time.time()
        yield GenerationResponse(request_id=request.request_id, request_args=None, text="a"), request_info


def alone(name):
    node = GenerativeConversationNode(node_id="0", agent_id="a", request=GenerationRequest(request_id=name))
    return GenerativeConversationGraph(graph_id=name, nodes={"0": node}, edges=[])


async def main():
    due = {}
    requests = [alone(str(number)) for number in range(50)]
    async for _, request, info, _ in Scheduler().run(requests, Answering(), AsyncPoissonStrategy(rate=10.0), None):
        if info.timings.targeted_start:
            due[request.request_id] = info.timings.targeted_start
    times = sorted(due.values())
    different = len({round(later - earlier, 4) for earlier, later in zip(times, times[1:])})
    print(f"{len(times)} requests, {'fewer than 10' if different < 10 else different} different gaps")


if __name__ == "__main__":
    asyncio.run(main())
PY
v/bin/python see.py 2>/dev/null | tail -1 | tee seen.txt
diff seen.txt - <<'TXT'
50 requests, fewer than 10 different gaps
TXT
