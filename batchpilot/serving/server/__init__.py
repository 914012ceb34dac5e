"""The reference server: OpenAI's API over the live engine, its limits set by a tuner. Needs the extra `serve`."""

from batchpilot.core.extras import needing

with needing("the reference server", "serve"):
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import uvicorn  # noqa: F401
