"""`batchpilot gateway`: a tuner's limits in front of a server that nobody can patch."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from batchpilot.baselines import SERVER_DEFAULT, Setting, StaticTuner
from batchpilot.core import SLO, Tuner
from batchpilot.core.extras import needing
from batchpilot.core.limits import TRACKS
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.runners.http.tokens import TOKEN_VARIABLE, chosen_token
from batchpilot.runners.leaderboard.strategies import make_strategy
from batchpilot.runners.options import refuse, reporting_mistakes
from batchpilot.runners.selection import chosen_tuner, find_tuner_config, parse_limits
from batchpilot.serving.doors.bodies import MOST_MB
from batchpilot.serving.doors.origins import check_binding
from batchpilot.serving.gateway.settings import NOT_HELD, GatewaySettings
from batchpilot.serving.interpreter import share_sooner
from batchpilot.serving.rehearsal import rehearse
from batchpilot.serving.session.session import TunerSession
from batchpilot.serving.texts import TokenCount, count_by_bytes
from batchpilot.tuners import DEFAULT_TUNER

LONGEST_TELL_S = 0.02
"""While a tuner is waited for, no token of any stream passes."""


@reporting_mistakes
def gateway(
    context: typer.Context,
    upstream: Annotated[str, typer.Option(help="The server's address, http://127.0.0.1:8000.")],
    tuner: Annotated[
        str | None, typer.Option(help="A strategy, policy:FILE.onnx or FILE.py:CLASS, as in the leaderboard.")
    ] = None,
    limits: Annotated[str | None, typer.Option(help="Constant limits instead: batch_size=64,ttft_guard=1.0.")] = None,
    ttft_ms: Annotated[float, typer.Option(help="Promised time to first token, of requests that name no class.")] = (
        SLO().ttft_ms
    ),
    tpot_ms: Annotated[float, typer.Option(help="Promised time per output token.")] = SLO().tpot_ms,
    track: Annotated[str, typer.Option(help=f"What a planning tuner may move: {', '.join(TRACKS)}.")] = "guarded",
    config: Annotated[str | None, typer.Option(help="Tuner configuration: a preset or a file.")] = None,
    parameters: Annotated[
        Path | None, typer.Option(help="What `calibrate --out` wrote: where a tuner's estimate begins.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer.json to count prompts with; else a quarter of their bytes.")
    ] = None,
    window_ms: Annotated[float, typer.Option(help="Time between two decisions of the tuner.")] = 1000.0,
    poll_s: Annotated[float, typer.Option(help="How often to read the server's /metrics, 0 for never.")] = 1.0,
    largest_body_mb: Annotated[float, typer.Option(help="A larger completion request is refused.")] = 32.0,
    bodies_mb: Annotated[float, typer.Option(help="Bodies hold no more in memory, all together.")] = MOST_MB,
    cache_tokens: Annotated[
        int | None, typer.Option(help="The server's KV cache, if it fails when that is full: llama.cpp's --ctx-size.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the tuner.")] = 0,
    host: Annotated[str, typer.Option(help="Where to listen; others than loopback need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen.")] = 8080,
    live_limits: Annotated[
        bool, typer.Option("--live-limits", help="Tell the server itself the limits, where it can be told as it runs.")
    ] = False,
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the token for changes of the tuner; else ${TOKEN_VARIABLE}.")
    ] = None,
) -> None:
    """Hold a tuner's limits in front of an OpenAI-compatible server."""
    if limits is not None:
        refuse(context, "with --limits", "tuner", "track", "config", "parameters", "seed")
    slo = SLO(ttft_ms, tpot_ms, "promised")
    settings = GatewaySettings(
        upstream,
        slo=slo,
        count_tokens=counting(tokenizer),
        poll_s=poll_s,
        largest_body_mb=largest_body_mb,
        bodies_mb=bodies_mb,
        cache_tokens=cache_tokens,
        live_limits=live_limits,
        token=chosen_token(token_file),
    )
    check_binding(host, settings.token)
    strategy: Tuner
    if limits is not None:
        strategy = StaticTuner(parse_limits(limits))
    else:
        latency = None if parameters is None else SaturationParameters.from_yaml(parameters)
        section = find_tuner_config(config)
        tuner = chosen_tuner(tuner, config, section, DEFAULT_TUNER)
        setting = Setting(section, SERVER_DEFAULT, slo, seed, track, latency, not_held=NOT_HELD)
        rehearse(make_strategy(tuner, setting))
        strategy = make_strategy(tuner, setting)
    serve(gateway_session(strategy, window_ms), settings, host, port)


def gateway_session(tuner: Tuner, window_ms: float) -> TunerSession:
    """A session that keeps no stream waiting while its tuner thinks.

    Args:
        tuner: decides.
        window_ms: time between two decisions.
    """
    return TunerSession(tuner, window_ms=window_ms, background=tuner.needs_details, longest_tell_s=LONGEST_TELL_S)


def serve(session: TunerSession, settings: GatewaySettings, host: str, port: int) -> None:
    """Run a gateway until it is interrupted; whoever comes then is told no until the last answer is out.

    Args:
        session: of the tuner.
        settings: of the gateway.
        host: where to listen.
        port: likewise, 0 for any that is free.

    Raises:
        MissingExtraError: the packages of the extra `serve` are missing.
        ValueError: the host can be reached by others and there is no token.
    """
    with needing("the gateway", "serve"):
        import uvicorn

        from batchpilot.serving.doors.draining import DrainingServer
        from batchpilot.serving.doors.protocol import door_settings
        from batchpilot.serving.gateway import Gateway
    check_binding(host, settings.token)
    share_sooner()
    gateway = Gateway(session, settings)

    def tell(bound_port: int) -> None:
        where = f"http://{f'[{host}]' if ':' in host else host}:{bound_port}"
        typer.echo(f"gateway on {where} before {settings.upstream}, tuner {session.tuner.name}", err=True)

    # The upstream's own Date and Server go through unchanged, and so do the names of proxies before us.
    config = uvicorn.Config(
        gateway,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        date_header=False,
        server_header=False,
        proxy_headers=False,
        **door_settings(settings.body_s),
    )
    with suppress(KeyboardInterrupt):
        DrainingServer(config, gateway.drain, tell).run()


def counting(tokenizer: Path | None) -> TokenCount:
    """How prompts are counted.

    Args:
        tokenizer: a `tokenizer.json`, None for bytes.

    Raises:
        MissingExtraError: the package `tokenizers` is missing.
        ValueError: the file is no tokenizer.
    """
    if tokenizer is None:
        return count_by_bytes
    with needing("--tokenizer", "serve"):
        from tokenizers import Tokenizer
    try:
        loaded = Tokenizer.from_str(tokenizer.read_text())
    except Exception as error:  # the package raises bare ones
        raise ValueError(f"{tokenizer} is no tokenizer.json ({error})") from error

    def count(text: str) -> int:
        # JSON may hold halves of characters, which no tokenizer takes.
        whole = text.encode(errors="replace").decode()
        return len(loaded.encode(whole, add_special_tokens=False).ids)

    return count
