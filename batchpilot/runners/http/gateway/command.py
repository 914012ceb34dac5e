"""`batchpilot gateway`: a tuner's limits in front of a server that nobody can patch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from batchpilot.baselines import SERVER_DEFAULT, Setting, StaticTuner
from batchpilot.configs.tenants import tenants_file
from batchpilot.core import SLO, Tuner
from batchpilot.core.extras import needing
from batchpilot.core.limits import TRACKS
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.runners.completion import completing
from batchpilot.runners.http.gateway.upstreams import (
    GATEWAY_SCALERS,
    chosen_upstreams,
    gateway_scaler,
    pair,
    parse_shares,
    parse_versions,
)
from batchpilot.runners.http.tokens import TOKEN_VARIABLE, chosen_token
from batchpilot.runners.leaderboard.strategies import make_strategy
from batchpilot.runners.options import TenantsOption, refuse, reporting_mistakes
from batchpilot.runners.selection import chosen_tuner, find_tuner_config, parse_limits
from batchpilot.serving.doors.bodies import MOST_MB
from batchpilot.serving.doors.origins import check_binding
from batchpilot.serving.gateway.settings import NOT_HELD, GatewaySettings
from batchpilot.serving.gateway.upstreams.buckets import parse_rate_limit
from batchpilot.serving.gateway.upstreams.desired import DesiredReplicas
from batchpilot.serving.gateway.upstreams.spec import ROUTERS, FleetSettings
from batchpilot.serving.interpreter import keep_what_is_loaded, share_sooner
from batchpilot.serving.recording import LARGEST_MB
from batchpilot.serving.rehearsal import rehearse
from batchpilot.serving.session.session import TunerSession
from batchpilot.serving.texts import TokenCount, count_by_bytes
from batchpilot.tuners import DEFAULT_TUNER

LONGEST_TELL_S = 0.02
"""While a tuner is waited for, no token of any stream passes."""


@reporting_mistakes
def gateway(
    context: typer.Context,
    upstream: Annotated[
        list[str] | None,
        typer.Option(
            help="The server's address; of several one each: http://127.0.0.1:8000,weight=2,version=1,tier=1."
        ),
    ] = None,
    upstreams: Annotated[
        Path | None, typer.Option(help="YAML file with the servers instead, as the page says.")
    ] = None,
    tuner: Annotated[
        str | None,
        typer.Option(
            help="A strategy, policy:FILE.onnx or FILE.py:CLASS, as in the leaderboard.",
            autocompletion=completing("tuners"),
        ),
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
        Path | None,
        typer.Option(help=f"File with the token for changes of the tuner and of recordings; else ${TOKEN_VARIABLE}."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write the server's steps to this CSV file, which `calibrate` reads.")
    ] = None,
    record_mb: Annotated[
        float, typer.Option(help="Of that file and the one before it together; half full, it becomes NAME.1.csv.")
    ] = LARGEST_MB,
    late_log: Annotated[
        Path | None, typer.Option(help="Write requests that were late or failed, and why, to this file of JSON lines.")
    ] = None,
    one_engine: Annotated[
        bool, typer.Option("--one-engine", help="All models of the server share one engine, whatever it lists.")
    ] = False,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="BATCHPILOT_UPSTREAM_KEY", help="Bearer token to list the server's models with."),
    ] = None,
    router: Annotated[str, typer.Option(help=f"Which of several upstreams: {', '.join(ROUTERS)}.")] = "least-tokens",
    retries: Annotated[int, typer.Option(min=0, help="Other upstreams that a request tries before it has begun.")] = 2,
    health_s: Annotated[
        float, typer.Option(min=0, help="Between health checks of several upstreams, 0 for none.")
    ] = 2.0,
    breaker: Annotated[
        str, typer.Option(help="Failures in a row, and s that an upstream is left alone then.")
    ] = "5,10",
    degrade: Annotated[
        float,
        typer.Option(help="Multiple of the TTFT promise beyond which tier 1 answers, if all of tier 0 is so late."),
    ] = 1.0,
    experiment: Annotated[str | None, typer.Option(help="Shares of the users by version: 1=0.9,2=0.1.")] = None,
    canary: Annotated[
        str | None, typer.Option(help="Roll a version out to a growing share of the users: OLD,NEW, as 1,2.")
    ] = None,
    rate_limit: Annotated[str | None, typer.Option(help="Of each API key: TOKENS_PER_S,BURST.")] = None,
    tenants: TenantsOption = None,
    scaler: Annotated[
        str, typer.Option(help=f"Decides batchpilot_desired_replicas: {', '.join(GATEWAY_SCALERS)}.")
    ] = "queue-and-use",
    replicas: Annotated[str, typer.Option(help="The least and the most that the scaler may want.")] = "1,8",
    replica_tokens_per_s: Annotated[
        float | None, typer.Option(help="What one upstream serves within its promise, for --scaler predictive.")
    ] = None,
) -> None:
    """Hold a tuner's limits in front of OpenAI-compatible servers."""
    told = chosen_upstreams(upstream or [], upstreams)
    fleet = None
    if len(told) > 1:
        failures, breaker_s = pair(breaker, "breaker", "FAILURES,SECONDS")
        fleet = FleetSettings(
            told,
            router=router,
            retries=retries,
            breaker_failures=int(failures),
            breaker_s=breaker_s,
            health_s=health_s,
            degrade=degrade,
            experiment=parse_shares(experiment) if experiment else {},
            canary=parse_versions(canary) if canary else None,
        )
    least, most = pair(replicas, "replicas", "LEAST,MOST")
    desired = DesiredReplicas(gateway_scaler(scaler, replica_tokens_per_s), int(least), int(most))
    if limits is not None:
        refuse(context, "with --limits", "tuner", "track", "config", "parameters", "seed")
    slo = SLO(ttft_ms, tpot_ms, "promised")
    settings = GatewaySettings(
        told[0].url,
        slo=slo,
        count_tokens=counting(tokenizer),
        poll_s=poll_s,
        largest_body_mb=largest_body_mb,
        bodies_mb=bodies_mb,
        cache_tokens=cache_tokens,
        live_limits=live_limits,
        token=chosen_token(token_file),
        api_key=told[0].api_key or api_key,
        record=record,
        record_mb=record_mb,
        late_log=late_log,
        rate_limit=parse_rate_limit(rate_limit) if rate_limit else None,
        tenants=tenants_file(tenants) if tenants else {},
    )
    check_binding(host, settings.token)
    if limits is not None:
        constant = parse_limits(limits)

        def strategy() -> Tuner:
            return StaticTuner(constant)

    else:
        latency = None if parameters is None else SaturationParameters.from_yaml(parameters)
        section = find_tuner_config(config)
        chosen = chosen_tuner(tuner, config, section, DEFAULT_TUNER)
        setting = Setting(section, SERVER_DEFAULT, slo, seed, track, latency, not_held=NOT_HELD)

        def strategy() -> Tuner:
            return make_strategy(chosen, setting)

        rehearse(strategy())

    def session() -> TunerSession:
        return gateway_session(strategy(), window_ms)

    serve(session(), settings, host, port, None if one_engine else session, fleet, session, desired, seed)


def gateway_session(tuner: Tuner, window_ms: float) -> TunerSession:
    """A session that keeps no stream waiting while its tuner thinks.

    Args:
        tuner: decides.
        window_ms: time between two decisions.
    """
    return TunerSession(tuner, window_ms=window_ms, background=tuner.needs_details, longest_tell_s=LONGEST_TELL_S)


def serve(
    session: TunerSession,
    settings: GatewaySettings,
    host: str,
    port: int,
    another: Callable[[], TunerSession] | None = None,
    fleet: FleetSettings | None = None,
    one_more: Callable[[], TunerSession] | None = None,
    desired: DesiredReplicas | None = None,
    seed: int = 0,
) -> None:
    """Run a gateway until it is interrupted; whoever comes then is told no until the last answer is out.

    Args:
        session: of the tuner.
        settings: of the gateway.
        host: where to listen.
        port: likewise, 0 for any that is free.
        another: makes a session for each further engine of the upstream; None where all models share one.
        fleet: several upstreams, None for the one in the settings.
        one_more: makes a session for each upstream after the first.
        desired: says how many upstreams there should be.
        seed: of the routing rules that draw.

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
    gateway = Gateway(session, settings, another, fleet, one_more, desired, seed)
    keep_what_is_loaded()

    def tell(bound_port: int) -> None:
        where = f"http://{f'[{host}]' if ':' in host else host}:{bound_port}"
        before = ", ".join(spec.url for spec in fleet.upstreams) if fleet else settings.upstream
        typer.echo(f"gateway on {where} before {before}, tuner {session.tuner.name}", err=True)

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
