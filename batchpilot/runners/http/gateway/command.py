"""`batchpilot gateway`: a tuner's limits in front of a server that nobody can patch."""

from __future__ import annotations

from typing import Annotated

import typer

from batchpilot.configs.tenants import tenants_file
from batchpilot.core import SLO
from batchpilot.core.limits import TRACKS
from batchpilot.runners.http.gateway.deciding import constant, deciding, gateway_session
from batchpilot.runners.http.gateway.options import (
    PROMISE,
    ApiKeyOption,
    BreakerOption,
    CacheTokensOption,
    CanaryOption,
    DegradeOption,
    HealthOption,
    LateLogOption,
    LiveLimitsOption,
    OneEngineOption,
    ParametersOption,
    RecordMbOption,
    RecordOption,
    ReplicaTokensOption,
    ScalerOption,
    TokenFileOption,
    TokenizerOption,
    TtftOption,
    TunerOption,
    UpstreamOption,
    UpstreamsOption,
)
from batchpilot.runners.http.gateway.running import serve
from batchpilot.runners.http.gateway.tokenizers import counting
from batchpilot.runners.http.gateway.upstreams import Sharing, chosen_upstreams, desired_replicas
from batchpilot.runners.http.tokens import chosen_token
from batchpilot.runners.options import ConfigOption, TenantsOption, refuse, reporting_mistakes
from batchpilot.runners.selection import parse_limits
from batchpilot.serving.doors.bodies import MOST_MB
from batchpilot.serving.doors.origins import check_binding
from batchpilot.serving.gateway.settings import GatewaySettings
from batchpilot.serving.gateway.upstreams.buckets import parse_rate_limit
from batchpilot.serving.gateway.upstreams.spec import ROUTERS
from batchpilot.serving.recording import LARGEST_MB
from batchpilot.serving.session.session import TunerSession


@reporting_mistakes
def gateway(
    context: typer.Context,
    upstream: UpstreamOption = None,
    upstreams: UpstreamsOption = None,
    tuner: TunerOption = None,
    limits: Annotated[str | None, typer.Option(help="Constant limits instead: batch_size=64,ttft_guard=1.0.")] = None,
    ttft_ms: TtftOption = PROMISE.ttft_ms,
    tpot_ms: Annotated[float, typer.Option(help="Promised time per output token.")] = PROMISE.tpot_ms,
    track: Annotated[str, typer.Option(help=f"What a planning tuner may move: {', '.join(TRACKS)}.")] = "guarded",
    config: ConfigOption = None,
    parameters: ParametersOption = None,
    tokenizer: TokenizerOption = None,
    window_ms: Annotated[float, typer.Option(help="Time between two decisions of the tuner.")] = 1000.0,
    poll_s: Annotated[float, typer.Option(help="How often to read the server's /metrics, 0 for never.")] = 1.0,
    largest_body_mb: Annotated[float, typer.Option(help="A larger completion request is refused.")] = 32.0,
    bodies_mb: Annotated[float, typer.Option(help="Bodies hold no more in memory, all together.")] = MOST_MB,
    cache_tokens: CacheTokensOption = None,
    seed: Annotated[int, typer.Option(help="Of the tuner.")] = 0,
    host: Annotated[str, typer.Option(help="Where to listen; others than loopback need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen.")] = 8080,
    live_limits: LiveLimitsOption = False,
    token_file: TokenFileOption = None,
    record: RecordOption = None,
    record_mb: RecordMbOption = LARGEST_MB,
    late_log: LateLogOption = None,
    one_engine: OneEngineOption = False,
    api_key: ApiKeyOption = None,
    router: Annotated[str, typer.Option(help=f"Which of several upstreams: {', '.join(ROUTERS)}.")] = "least-tokens",
    retries: Annotated[int, typer.Option(min=0, help="Other upstreams that a request tries before it has begun.")] = 2,
    health_s: HealthOption = 2.0,
    breaker: BreakerOption = "5,10",
    degrade: DegradeOption = 1.0,
    experiment: Annotated[str | None, typer.Option(help="Shares of the users by version: 1=0.9,2=0.1.")] = None,
    canary: CanaryOption = None,
    rate_limit: Annotated[str | None, typer.Option(help="Of each API key: TOKENS_PER_S,BURST.")] = None,
    tenants: TenantsOption = None,
    scaler: ScalerOption = "queue-and-use",
    replicas: Annotated[str, typer.Option(help="The least and the most that the scaler may want.")] = "1,8",
    replica_tokens_per_s: ReplicaTokensOption = None,
) -> None:
    """Hold a tuner's limits in front of OpenAI-compatible servers."""
    told = chosen_upstreams(upstream or [], upstreams)
    fleet = Sharing(router, retries, health_s, breaker, degrade, experiment, canary).among(told)
    desired = desired_replicas(scaler, replica_tokens_per_s, replicas)
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
        strategy = constant(parse_limits(limits))
    else:
        strategy = deciding(tuner, config, track, parameters, slo, seed)

    def session() -> TunerSession:
        return gateway_session(strategy(), window_ms)

    serve(session(), settings, host, port, None if one_engine else session, fleet, session, desired, seed)
