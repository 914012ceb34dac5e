"""A toy asyncio server whose batch size follows a tuner: its raw events go to a session, the limits come from it.

Run it: `python examples/tuner_session.py`. The model is a wait of 2 ms and 0.25 ms a request.
"""

import asyncio
import time

from batchpilot.serving import TunerSession, make_tuner


async def serve(session: TunerSession, queue: asyncio.Queue, requests: int) -> None:
    """One step after the other: as many requests as the limits allow, one token each until they have ten."""
    running: dict[int, int] = {}
    done = 0
    while done < requests:
        while len(running) < session.limits().batch_size and not queue.empty():
            running[queue.get_nowait()] = 0
        started, batch_size = time.perf_counter(), len(running)
        await asyncio.sleep(0.002 + 0.00025 * batch_size)
        session.on_step_tokens(running)
        for request in list(running):
            running[request] += 1
            if running[request] == 10:
                del running[request]
                session.on_finish(request)
                done += 1
        duration_ms = 1000.0 * (time.perf_counter() - started)
        session.on_step(batch_size, batch_size, 0, duration_ms)


async def main(requests: int = 600) -> TunerSession:
    """Requests come every 2 ms."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    with TunerSession(make_tuner("aimd"), window_ms=50.0) as session:
        server = asyncio.create_task(serve(session, queue, requests))
        for request in range(requests):
            session.on_arrival(request, prompt_tokens=8, ttft_target_ms=500.0, tpot_target_ms=20.0)
            queue.put_nowait(request)
            await asyncio.sleep(0.002)
        await server
        return session


if __name__ == "__main__":
    status = asyncio.run(main()).status()
    print(f"batch size {status['limits']['batch_size']} after {status['windows']} windows: {status['reason']}")
