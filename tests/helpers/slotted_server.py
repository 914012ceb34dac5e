"""A server to start: `python slotted_server.py --port P --slots N`; the more requests have slots, the slower each is.

It answers as OpenAI's API does, on the standard library alone, and is up in a tenth of a second. `--most-slots` makes
it end at a larger number, with what it would say; `--silent` never serves; `--child FILE` starts a process of its own.
"""

import argparse
import asyncio
import json
import subprocess
import sys
from pathlib import Path

STEP_S, EACH_S, TOKEN_S = 0.004, 0.0006, 0.00002


def event(data):
    said = b"data: " + json.dumps(data).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(said), said)


class Slots:
    def __init__(self, count):
        self.free, self.running = asyncio.Semaphore(count), 0

    async def serve(self, body, writer):
        prompt, wanted = len(body["prompt"]) // 4, body["max_tokens"]
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        async with self.free:
            self.running += 1
            try:
                await asyncio.sleep(prompt * TOKEN_S)
                for _ in range(wanted):
                    await asyncio.sleep(STEP_S + EACH_S * self.running)
                    writer.write(event({"choices": [{"index": 0, "text": " a", "finish_reason": None}]}))
            finally:
                self.running -= 1
        writer.write(event({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}))
        writer.write(event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": wanted}}))
        writer.write(b"0\r\n\r\n")


async def main(asked):
    slots = Slots(asked.slots)

    async def answer(reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = next((line[15:] for line in head.split("\r\n") if line.startswith("content-length:")), "0")
                body = json.loads(await reader.readexactly(int(length)) or b"null")
                if head.startswith("post") and body.get("stream"):
                    await slots.serve(body, writer)
                    continue
                said = {"data": [{"id": "slotted"}]} if "/v1/models" in head else {"usage": {"prompt_tokens": 50}}
                told = json.dumps(said).encode()
                status = 404 if "/health" in head else 200
                writer.write(b"HTTP/1.1 %d Said\r\ncontent-length: %d\r\n\r\n%b" % (status, len(told), told))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", asked.port, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--slots", type=int)
    parser.add_argument("--most-slots", type=int, default=10**6)
    parser.add_argument("--silent", action="store_true")
    parser.add_argument("--child", type=Path)
    asked = parser.parse_args()
    print(f"starting with {asked.slots} slots", flush=True)
    if asked.slots > asked.most_slots:
        sys.exit(f"out of memory: {asked.slots} slots do not fit")
    if asked.child:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        asked.child.write_text(str(child.pid))
    asyncio.run(asyncio.sleep(600) if asked.silent else main(asked))
