"""Pipeline parallelism: the layers of a model in stages, each on devices of its own, and as many batches in flight.

A batch goes through all stages one after the other, so its step takes what the whole model takes on the devices of one
stage, and messages between them. Meanwhile the other stages compute the other batches. So each batch in flight is an
engine like one without stages, on its share of the devices, but with a share of the weights in their memory.

Stages are taken to be equally long and batches to be equally large: what they wait for each other otherwise (bubbles)
is left out, so that what is planned is an upper bound.
"""

from __future__ import annotations

from dataclasses import replace

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec
from batchpilot.latency.model.roofline import ATTAINABLE, activation_bytes, link_bytes_per_ms
from batchpilot.latency.model.saturation import SaturationParameters


def staged(
    parameters: SaturationParameters, device: DeviceSpec, model: ModelSpec, pipeline_parallel: int
) -> SaturationParameters:
    """The step latency of one batch in flight.

    Args:
        parameters: of the whole model on the devices of one stage.
        device: those devices.
        model: the model.
        pipeline_parallel: stages, >= 1; 1 changes nothing.

    Raises:
        ValueError: more stages than layers, fewer than one, or the device has no link to pass messages over.
    """
    check_stages(device, model, pipeline_parallel)
    messages, link_gb_per_s = pipeline_parallel - 1, device.link_gb_per_s
    if not messages or link_gb_per_s is None:
        return parameters
    attainable = ATTAINABLE[device.vendor]
    per_token_ms = activation_bytes(model) / link_bytes_per_ms(link_gb_per_s, attainable)
    return replace(
        parameters,
        tau_0=parameters.tau_0 + messages * attainable.hop_ms,
        tau_s=parameters.tau_s + messages * per_token_ms,
    )


def check_stages(device: DeviceSpec, model: ModelSpec, pipeline_parallel: int) -> None:
    """Whether a model can be cut into so many stages on such devices.

    Args:
        device: the device.
        model: the model.
        pipeline_parallel: stages.

    Raises:
        ValueError: as `staged`.
    """
    if not 1 <= pipeline_parallel <= model.layers:
        raise ValueError(
            f"pipeline_parallel is {pipeline_parallel}; it must be 1 to {model.layers}, the layers of {model.name}"
        )
    if pipeline_parallel > 1 and device.link_gb_per_s is None:
        raise ValueError(
            f"pipeline_parallel is {pipeline_parallel}, but {device.name} has no link to share a model over"
        )
