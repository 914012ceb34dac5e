"""The load that a planning question names: a mix of lengths, or requests in their order where caches look at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec
from batchpilot.configs.image_spec import VisionSpec
from batchpilot.core.names import lookup
from batchpilot.envs.scenarios import prepare
from batchpilot.latency.model.vision_tower import TOWERS
from batchpilot.runners.selection import Changes, find_scenario, looks_like_file, replay_of
from batchpilot.workloads import FITTED_LENGTHS, RequestTable, fixed_lengths

Draw = Callable[[int, np.random.Generator], tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Draws so many requests: their prompt and output tokens."""

_LARGEST_OUTPUT_SHARE = 4


@dataclass(frozen=True, eq=False)
class Load:
    """What is asked of an engine, and which of its caches that touches.

    Attributes:
        draw: draws lengths from the mix, order and images aside.
        shared: requests in their order, without think times, where prefixes or images are to be found again; else None.
        prefix_cache: whether the engine keeps what prompts have in common.
        vision: what encodes images on the engine, None where nothing is known of it or there are none.
    """

    draw: Draw
    shared: RequestTable | None = None
    prefix_cache: bool = False
    vision: VisionSpec | None = None


def find_load(
    name: str,
    device: DeviceSpec,
    model: ModelSpec,
    tensor_parallel: int,
    prefix_cache: bool | None = None,
    tower: str | None = None,
) -> Load:
    """The load that a command line names, cut to what the model can take.

    Args:
        name: azure-conv, azure-code, `prompt,output` (`fixed` may stand before it), or a scenario's name or file or a
            trace's, whose requests are drawn anew without their order; in it where an engine keeps prefixes or images.
        device: where a scenario runs, since its load may depend on it.
        model: its context bounds prompt plus output.
        tensor_parallel: devices that share the model.
        prefix_cache: whether the engine keeps what prompts have in common; None for what a scenario says.
        tower: what encodes images, one of `TOWERS`; None for what a scenario says.

    Raises:
        ValueError: not understood, longer than the model's context, or a cache or a tower is asked for and nothing is
            known that prompts have in common, or no prompt has an image.
        OSError: a file cannot be read.
    """
    if tower is not None:
        lookup(TOWERS, tower, "vision tower")
    mix = _mix(name, model)
    if mix is not None:
        if prefix_cache:
            raise ValueError(_nothing_in_common(name))
        if tower is not None:
            raise ValueError(_no_images(name))
        return Load(mix)
    path = Path(name)
    is_trace = looks_like_file(name) and path.suffix not in (".yaml", ".yml")
    chosen = replay_of(path) if is_trace else find_scenario(name)
    requests = prepare(Changes(device.name, tensor_parallel=tensor_parallel).of(chosen), 0).requests
    fitting = requests.select(requests.prompt_tokens + requests.output_tokens <= model.max_model_len)
    if len(fitting) == 0:
        raise ValueError(f"no request of {name} fits into the {model.max_model_len} tokens of {model.name}'s context")

    def draw(n: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows = rng.integers(len(fitting), size=n)
        return fitting.prompt_tokens[rows], fitting.output_tokens[rows]

    shown = fitting.images is not None and bool(fitting.images.shown.any())
    if tower is not None and not shown:
        raise ValueError(_no_images(name))
    cached = chosen.engine.prefix_cache if prefix_cache is None else prefix_cache
    if cached and (fitting.prefixes is None or not len(fitting.prefixes.hashes)):
        raise ValueError(_nothing_in_common(name))
    if not cached and not shown:
        return Load(draw)
    kept = replace(fitting, turns=None, concurrency=0)
    if not shown:
        return Load(draw, replace(kept, images=None), True)
    vision = chosen.engine.vision if tower is None else VisionSpec(tower=tower)
    return Load(draw, kept if cached else replace(kept, prefixes=None), cached, vision)


def find_draw(name: str, device: DeviceSpec, model: ModelSpec, tensor_parallel: int) -> Draw:
    """The mix alone that `find_load` finds, for an engine without caches.

    Args:
        name: as there.
        device: as there.
        model: as there.
        tensor_parallel: as there.
    """
    return find_load(name, device, model, tensor_parallel, prefix_cache=False).draw


def _mix(name: str, model: ModelSpec) -> Draw | None:
    """A mix that needs no file, None for a name that means something else."""
    bound = model.max_model_len
    if name in FITTED_LENGTHS:
        most_output = min(1024, bound // _LARGEST_OUTPUT_SHARE)
        lengths = FITTED_LENGTHS[name]
        return replace(lengths, max_prompt_tokens=bound - most_output, max_output_tokens=most_output).sample
    fixed = name.removeprefix("fixed").lstrip(" :")
    if "," not in fixed:
        return None
    parts = fixed.split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"workload {name!r} is not of the form prompt,output in tokens")
    prompt, output = (int(part) for part in parts)
    if prompt + output > bound:
        raise ValueError(f"{prompt} + {output} tokens exceed the {bound} of {model.name}'s context")
    return fixed_lengths(prompt, output).sample


def _nothing_in_common(name: str) -> str:
    return (
        f"nothing is known that prompts of {name} have in common; give a trace with block hashes, or a scenario with "
        "workload.sharing or conversations"
    )


def _no_images(name: str) -> str:
    return (
        f"no request of {name} has an image that a tower would encode; give a trace with images, or a scenario with "
        "workload.images"
    )
