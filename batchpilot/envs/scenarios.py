"""From a scenario and a seed to everything a run needs: the engine, its memory, its requests and its horizon."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec, device, model
from batchpilot.configs.image_spec import VisionSpec
from batchpilot.configs.scenario import DeviceSpread, EngineSpec, ModelSwitch, Scenario
from batchpilot.core.speculation import Speculation
from batchpilot.core.tenants import TenantTerms
from batchpilot.engines.memory import memory_model
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.latency.model.parameter_file import ParameterFile, read_parameters
from batchpilot.latency.model.registry import find_latency, scaled_to
from batchpilot.latency.model.roofline import LatencyEstimate
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.model.vision_tower import VisionTower, tower_bytes, tower_on
from batchpilot.workloads.build import build_requests
from batchpilot.workloads.table import RequestTable

GRACE_S = 30.0
"""Time after the last phase in which requests may still finish; the same for every strategy."""

CAPACITY_BATCH_SIZE = 256
WORKLOAD_STREAM, _ESTIMATE_STREAM, _DEVICE_STREAM = 11, 12, 13


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """One scenario at one seed, ready to be run by any number of strategies on the same requests.

    Attributes:
        scenario: where it comes from.
        seed: of the workload, the noise and the error of the estimate.
        engine: configuration of the simulated engine.
        requests: what will arrive.
        horizon_ms: where the run stops; None runs until every request has ended.
        window_ms: the decision interval.
        latency_provenance: whether the true latency was measured or estimated, and from what.
    """

    scenario: Scenario
    seed: int
    engine: EngineConfig
    requests: RequestTable
    horizon_ms: float | None
    window_ms: float
    latency_provenance: str


def prepare(scenario: Scenario, seed: int) -> PreparedRun:
    """Draw the requests of a scenario and configure its engine.

    Args:
        scenario: a catalogued or loaded scenario.
        seed: equal seeds give equal runs.

    Raises:
        ValueError: device or model unknown, the model does not fit, a trace scenario has no file, or the parameter file
            is of other hardware.
        OSError: a file cannot be read.
    """
    chip, served = device(scenario.device), model(scenario.model)
    measured = _measured(scenario)
    known = latency_of(scenario)
    memory = memory_model(
        chip,
        served,
        scenario.tensor_parallel,
        scenario.dtype,
        tower_bytes=tower_weight(scenario.engine.vision),
    )
    latency = known.parameters
    requests = build_requests(
        scenario.workload,
        scenario.slo_classes(),
        np.random.default_rng([seed, WORKLOAD_STREAM]),
        lambda prompt, output: capacity_per_s(latency, memory.kv_capacity_tokens, prompt, output),
        scenario.duration_s,
    )
    requests = keeping_promise(requests, scenario)
    spec = scenario.engine
    estimate = latency.perturbed(np.random.default_rng([seed, _ESTIMATE_STREAM]), spec.estimate_error)
    engine = EngineConfig(
        latency=latency,
        estimate=estimate,
        block_size=spec.block_size,
        prefix_cache=spec.prefix_cache,
        vision=vision_tower(scenario),
        max_model_len=spec.max_model_len or served.max_model_len,
        mode=spec.mode,
        prefill=spec.prefill,
        noise=_noise(spec, measured),
        front_ms=0.0 if measured is None or requests.concurrency else measured.front_ms,
        drift=drift_schedule(scenario, latency),
        memory=memory,
        speculation=Speculation() if spec.speculation is None else Speculation(**spec.speculation.model_dump()),
        tenants={user: TenantTerms(**terms.model_dump()) for user, terms in spec.tenants.items()},
        seed=seed,
    )
    horizon_ms = None if scenario.duration_s is None else 1000.0 * (scenario.duration_s + GRACE_S)
    return PreparedRun(scenario, seed, engine, requests, horizon_ms, scenario.decision_interval_ms, known.provenance)


def vision_tower(scenario: Scenario) -> VisionTower:
    """What encodes images on a scenario's engine: as it says, or estimated for its device; free where it says nothing.

    Args:
        scenario: a catalogued or loaded scenario.

    Raises:
        ValueError: an unknown tower; the message names the closest one.
    """
    return tower_of(scenario.engine.vision, device(scenario.device))


def tower_of(spec: VisionSpec | None, chip: DeviceSpec) -> VisionTower:
    """What a specification says of a device's encoding: its own times, or a tower's estimated for the device.

    Args:
        spec: an `engine.vision` section; None for an encoding that costs nothing.
        chip: the device.

    Raises:
        ValueError: an unknown tower; the message names the closest one.
    """
    if spec is None:
        return VisionTower()
    kept = {"feature_cache": spec.feature_cache, "together": spec.together}
    if spec.tower is not None:
        return replace(tower_on(chip, spec.tower), **kept)
    return VisionTower(spec.pass_ms or 0.0, spec.token_ms or 0.0, **kept)


def tower_weight(spec: VisionSpec | None) -> float:
    """Bytes that what encodes images takes of an engine's memory, as far as a specification names it.

    Args:
        spec: an `engine.vision` section, None for no images.

    Raises:
        ValueError: an unknown tower; the message names the closest one.
    """
    return 0.0 if spec is None else tower_bytes(spec.tower)


def latency_of(scenario: Scenario) -> LatencyEstimate:
    """The step latency of a scenario's engine at its start: from its parameter file, else what the catalogue knows.

    Either is another device's where the scenario's engine has a `device_spread`.

    Args:
        scenario: a catalogued or loaded scenario.

    Raises:
        ValueError: device or model unknown, or the parameter file is wrong or of other hardware.
        OSError: the parameter file cannot be read.
    """
    measured = _measured(scenario)
    if measured is not None:
        return another_device(measured.estimate, scenario.engine.device_spread)
    known = find_latency(device(scenario.device), model(scenario.model), scenario.tensor_parallel, scenario.dtype)
    return another_device(known, scenario.engine.device_spread)


def another_device(known: LatencyEstimate, spread: DeviceSpread | None) -> LatencyEstimate:
    """The step latency of a device near a known one.

    Args:
        known: of the known device.
        spread: how near, and which; it has the same factors always. None for the known one.
    """
    if spread is None:
        return known
    parameters = known.parameters.perturbed(np.random.default_rng([spread.seed, _DEVICE_STREAM]), spread.spread)
    return LatencyEstimate(parameters, f"drawn around: {known.provenance}")


def _measured(scenario: Scenario) -> ParameterFile | None:
    """What a scenario's parameter file says; None without one."""
    if scenario.parameters is None:
        return None
    read = read_parameters(scenario.parameters)
    read.check(device(scenario.device), model(scenario.model), scenario.tensor_parallel)
    return read


def _noise(spec: EngineSpec, measured: ParameterFile | None) -> float:
    """The noise of steps that was measured with them, unless the scenario states one."""
    if measured is None or measured.noise is None or "noise" in spec.model_fields_set:
        return spec.noise
    return measured.noise


def keeping_promise(requests: RequestTable, scenario: Scenario) -> RequestTable:
    """The requests under the promise that a scenario makes to all of them, if it does.

    Args:
        requests: of the scenario, targets as their classes have them.
        scenario: whose `promise` counts.
    """
    promise = scenario.promise
    return requests if promise is None else requests.promised(promise.ttft_ms, promise.tpot_ms)


def capacity_per_s(
    latency: SaturationParameters,
    kv_capacity_tokens: int,
    mean_prompt: float,
    mean_output: float,
    share_cached: float = 0.0,
) -> float:
    """Estimated requests per second that an engine can serve, latency promises aside.

    A request costs its prompt at saturated throughput plus its share of the decode steps at the largest batch that
    holds in the KV cache (at most 256 requests, half of their output generated).

    Args:
        latency: step latency.
        kv_capacity_tokens: KV tokens that fit.
        mean_prompt: mean prompt length in tokens.
        mean_output: mean output length in tokens.
        share_cached: of the prompt tokens that a prefix cache has, so that they are not computed, 0-1.
    """
    context = mean_prompt + mean_output / 2
    batch_size = int(np.clip(kv_capacity_tokens / context, 1, CAPACITY_BATCH_SIZE))
    decode_ms = float(latency.predict(batch_size, batch_size, batch_size * context)) * mean_output / batch_size
    prefill_ms = (1.0 - share_cached) * mean_prompt * (latency.w_1 / latency.p_max + latency.tau_s)
    return 1000.0 / (prefill_ms + decode_ms)


def drift_schedule(scenario: Scenario, latency: SaturationParameters) -> tuple[tuple[float, SaturationParameters], ...]:
    """The true parameters from each change on: slowdowns multiply, a model switch replaces.

    A switched model keeps the memory set aside at start; only its step latency changes.

    Args:
        scenario: its `engine.drift` says what changes.
        latency: parameters at the start.
    """
    changes = scenario.engine.drift
    moments = {change.start_s for change in changes}
    moments |= {change.end_s for change in changes if not isinstance(change, ModelSwitch)}
    schedule = []
    for moment in sorted(moments):
        parameters, factor = latency, 1.0
        for change in changes:
            if isinstance(change, ModelSwitch):
                if change.start_s <= moment:
                    parameters = _switched(scenario, latency, model(change.model))
            elif change.start_s <= moment < change.end_s:
                factor *= change.factor
        schedule.append((1000.0 * moment, parameters.scaled(factor)))
    return tuple(schedule)


def _switched(scenario: Scenario, latency: SaturationParameters, served: ModelSpec) -> SaturationParameters:
    """The catalogue's latency of another model on the device; where ours was measured, that scaled to its size."""
    if scenario.parameters is not None:
        return scaled_to(latency, model(scenario.model), served)
    known = find_latency(device(scenario.device), served, scenario.tensor_parallel, scenario.dtype)
    return another_device(known, scenario.engine.device_spread).parameters
