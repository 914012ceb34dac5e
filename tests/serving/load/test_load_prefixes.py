"""A load test whose prompts share beginnings: a server's prefix cache finds what simulation says it would."""

import asyncio
import re
import urllib.request

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")

from running_server import serving, wait_for
from shared_prefixes import in_common

from batchpilot.core.limits import Limits
from batchpilot.core.slo import SLO
from batchpilot.engines import simulate
from batchpilot.engines.torch import TorchEngineConfig
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.serving.load.run import LoadSettings, run_load
from batchpilot.workloads.table import RequestTable

LATENCY = SaturationParameters(p_max=20.0, k_b=0.12, k_s=0.005, tau_0=1.0, tau_b=0.02, tau_c=1e-4)


def counted(url, name):
    """A counter of the server's."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10.0) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(rf"^\S*{name}_total\S* (\S+)$", text, re.MULTILINE))


@pytest.mark.parametrize("shared", [True, False])
def test_the_servers_cache_finds_what_simulation_says(runner, shared):
    rng = np.random.default_rng(5)
    tokens = rng.integers(40, 200, 24)
    prefixes = in_common(tokens, 32, rng) if shared else None
    table = RequestTable.from_arrays(np.arange(24) * 60.0, tokens, 2, slos=SLO(), prefixes=prefixes)
    told = simulate(table, LATENCY, Limits(32), kv_capacity_tokens=8192, prefix_cache=True).cached_tokens
    with serving(runner, engine=TorchEngineConfig(prefix_cache=True, max_model_len=512)) as (_, url, _):
        found = asyncio.run(run_load(table, LoadSettings(url, bytes_per_token=1.0, grace_s=20.0)))
        wait_for(lambda: counted(url, "prefix_cache_queries") >= tokens.sum())
        cached = counted(url, "prefix_cache_hits")
    assert found.outcome.count("length") == 24
    assert cached == pytest.approx(told.sum(), abs=0.05 * tokens.sum())
    assert bool(told.sum() > 0.2 * tokens.sum()) == shared
