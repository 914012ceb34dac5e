"""llama.cpp's own server, as the wheel `xllamacpp` holds it: `python llama_cpp_server.py GGUF PORT SLOTS CONTEXT`."""

import os
import signal
import sys

from xllamacpp import CommonParams, Server


def main(gguf: str, port: int, slots: int, context_tokens: int) -> None:
    """Serve until interrupted; one cache of so many tokens for all slots, as llama.cpp has it by default."""
    params = CommonParams()
    params.model.path = gguf
    params.model_alias = ["smol"]
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel, params.n_ctx, params.kv_unified = slots, context_tokens, True
    # One core is the clients' and the gateway's, as vLLM has it too: threads that wait for one another by spinning lose
    # most of their time where anything else wants their core.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max((os.cpu_count() or 2) - 1, 1)
    params.endpoint_metrics = True
    server = Server(params)
    print(server.listening_address, flush=True)
    signal.sigwait([signal.SIGINT, signal.SIGTERM])


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:5]))
