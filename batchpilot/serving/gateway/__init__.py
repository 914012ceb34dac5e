"""A streaming reverse proxy that holds a tuner's limits before any OpenAI-compatible server, or several.

`Gateway` needs httptools, so it is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchpilot.core.extras import needing
from batchpilot.serving.gateway.settings import GatewaySettings
from batchpilot.serving.gateway.upstreams.spec import FleetSettings, UpstreamSpec

if TYPE_CHECKING:
    from batchpilot.serving.gateway.gateway import Gateway

__all__ = ["Gateway", "GatewaySettings", "FleetSettings", "UpstreamSpec"]


def __getattr__(name: str) -> Any:
    """Import the gateway on first use."""
    if name == "Gateway":
        with needing("the gateway", "serve"):
            from batchpilot.serving.gateway.gateway import Gateway

        return Gateway
    raise AttributeError(f"module 'batchpilot.serving.gateway' has no attribute {name!r}")
