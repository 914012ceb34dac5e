"""The published runs that come with the extra `devices`: read, matched to the catalogue, and those of one engine kept.

A run is N clients in a closed loop against one address. Left out, each with its reason, are: prefill and decode on
engines of their own; runs that stand in the sample again; several engines behind the address, be it that the row says
so (data parallelism above 1, or more devices for experts than for attention), be it that it leaves the data parallelism
blank and a run of its file is faster than its devices' published peaks allow.
"""

from __future__ import annotations

import csv
import importlib.resources
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from batchpilot.configs.catalogue import ModelSpec, device, model
from batchpilot.configs.footprint import kv_bytes_per_token, weight_bytes
from batchpilot.latency.measured.operators import SYSTEMS

SHORTEST = 0.8
"""Lengths are drawn between this share of the stated ones and all of it, as the public benchmark does that most of
the runs come from; those that leave the data parallelism blank are the sample makers' own, of the stated lengths."""

SPECULATIVE = 1.3
"""Between engine versions TPOT of one set-up differs by up to a fifth; beyond this the faster one drafted tokens, which
no column says."""

AGAIN = "stands in the sample again"
SERVER = 8
"""Devices that share a model in one server. A row of more with experts in groups counts each device once a group."""

DEVICES = {system: name for name, system in SYSTEMS.items()}
_SAME = {
    "Qwen/Qwen3-235B-A22B-FP8": "Qwen3-235B-A22B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "Llama-3.1-8B",
    "nvidia/DeepSeek-R1-NVFP4": "DeepSeek-V3",
    "nvidia/DeepSeek-V3.1-NVFP4": "DeepSeek-V3",
    "nvidia/Qwen3-32B-NVFP4": "Qwen3-32B",
}
_TYPES = {"fp8": "fp8", "fp4": "nvfp4", "bf16": "fp16", "int4": "int4"}
_SPEED = {"fp8": 2, "nvfp4": 4, "mxfp4": 4}
"""Of arithmetic, relative to 16 bits: the most that any of the devices has."""


@dataclass(frozen=True)
class Run:
    """One published run.

    Attributes:
        device: catalogue name.
        engine: which software.
        version: of it, "" where the sample does not say.
        model: catalogue entry.
        dtype: type of the weights.
        tensor_parallel: devices.
        expert_parallel: groups of them for the experts.
        clients: requests under way at a time.
        prompt_tokens: stated length.
        output_tokens: stated length.
        shortest: share of the stated lengths that the shortest requests had.
        ttft_ms: mean, as published.
        tpot_ms: mean, as published.
        file: where the sample has it from.
    """

    device: str
    engine: str
    version: str
    model: ModelSpec
    dtype: str
    tensor_parallel: int
    expert_parallel: int
    clients: int
    prompt_tokens: int
    output_tokens: int
    shortest: float
    ttft_ms: float
    tpot_ms: float
    file: str

    @property
    def mean_share(self) -> float:
        """Mean length over the stated one."""
        return (1 + self.shortest) / 2

    @property
    def decode_ms(self) -> float:
        """How long a request decodes."""
        return self.tpot_ms * (self.mean_share * self.output_tokens - 1)

    @property
    def held(self) -> float:
        """Clients that the engine held at a time, by Little's law: the others waited for their first token."""
        return self.clients * self.decode_ms / (self.ttft_ms + self.decode_ms)

    @property
    def held_tokens(self) -> float:
        """KV tokens of these."""
        return self.held * self.mean_share * (self.prompt_tokens + self.output_tokens / 2)

    @property
    def setting(self) -> tuple[object, ...]:
        """What was served how, whichever version of the engine it was."""
        place = (self.device, self.engine, self.model.name, self.dtype, self.tensor_parallel, self.expert_parallel)
        return (*place, self.clients, self.prompt_tokens, self.output_tokens)

    @property
    def recipe(self) -> tuple[str, ...]:
        """Runs that were set up alike."""
        return (self.engine, self.model.name, self.device, self.dtype, "own" if self.shortest == 1 else "public")

    @property
    def share_of_peak(self) -> float:
        """Time of its work at the published peaks of its devices over the time that it took; above 1 they cannot do it.

        Counted are the active weights once a step, an 8-bit cache and two operations a parameter and token.
        """
        chip = device(self.device)
        request_ms = (self.ttft_ms + self.decode_ms) / self.clients
        operations = 2 * self.model.active * self.mean_share * (self.prompt_tokens + self.output_tokens)
        compute = operations / (chip.peak_tflops * 1e9 * _SPEED.get(self.dtype, 1)) / request_ms
        weights = weight_bytes(self.model, self.dtype) * self.model.active / self.model.parameters
        step_bytes = weights + self.held_tokens * kv_bytes_per_token(self.model, 1, "fp8")
        reading = step_bytes / (chip.bandwidth_gb_per_s * 1e6) / self.tpot_ms
        return (compute + reading) / self.tensor_parallel


def sample() -> list[dict[str, str]]:
    """Every row of the sample."""
    path = importlib.resources.files("aiconfigurator_core") / "systems" / "silicon_sample.csv"
    return list(csv.DictReader(io.StringIO(path.read_text())))


def published(rows: Iterable[Mapping[str, str]], left_out: Counter[str]) -> list[Run]:
    """The runs of single engines, each once, in the order of the sample.

    Args:
        rows: of the sample.
        left_out: how many are left out, by reason; counted up.
    """
    read = list(_read(rows, left_out))
    first = {(*run.setting, run.ttft_ms, run.tpot_ms): run for run in reversed(read)}
    runs = list(first.values())[::-1]
    left_out[AGAIN] += len(read) - len(runs)
    too_fast = {run.file for run in runs if run.shortest == 1 and run.share_of_peak > 1}
    slowest: dict[tuple[object, ...], float] = {}
    for run in runs:
        slowest[run.setting] = max(run.tpot_ms, slowest.get(run.setting, 0.0))
    kept = []
    for run in runs:
        if run.file in too_fast:
            left_out["several engines: faster than the devices' peak"] += 1
        elif slowest[run.setting] > SPECULATIVE * run.tpot_ms:
            left_out["several tokens a step: the same set-up takes over 1.3 times as long elsewhere"] += 1
        else:
            kept.append(run)
    return kept


def read_run(row: Mapping[str, str]) -> Run:
    """A row as a run.

    Args:
        row: of the sample.

    Raises:
        ValueError: it is none of a single engine on catalogued devices with a catalogued model; the message says why.
    """
    tensor, groups = int(row["tp_size"]), int(row["moe_ep_size"] or 1)
    if tensor > SERVER and groups > 1 and tensor % groups == 0:
        tensor //= groups
    if row["attention_dp_size"] not in ("1", "") or row["pp_size"] not in ("1", ""):
        raise ValueError("several engines: data or pipeline parallel")
    spec = model(_SAME.get(row["model_path"], row["model_path"]))
    groups = groups if spec.experts else 1
    if spec.experts and (int(row["moe_tp_size"] or 1) * groups > int(row["tp_size"]) or tensor > SERVER):
        raise ValueError("several engines: more devices for experts than for attention")
    return Run(
        DEVICES[row["system"]],
        row["backend"],
        row["backend_version"],
        spec,
        _weights(row["precision"], spec),
        tensor,
        groups,
        int(float(row["batch_size"])),
        int(row["isl"]),
        int(row["osl"]),
        SHORTEST if row["attention_dp_size"] else 1.0,
        float(row["silicon_ttft_ms"]),
        float(row["silicon_tpot_ms"]),
        _file(row["silicon_data_source"]),
    )


def _read(rows: Iterable[Mapping[str, str]], left_out: Counter[str]) -> Iterator[Run]:
    seen = set()
    for row in rows:
        key = tuple(value for name, value in row.items() if name not in ("id", "silicon_data_source"))
        if key in seen:
            left_out[AGAIN] += 1
            continue
        seen.add(key)
        if row["mode"] != "agg":
            left_out["prefill and decode apart"] += 1
            continue
        try:
            yield read_run(row)
        except ValueError as error:
            left_out[str(error)[:70]] += 1


def _weights(precision: str, spec: ModelSpec) -> str:
    """The type of the weights: MXFP4 is what models published in it mean by 4 bits; a blank means as published."""
    named = _TYPES.get(precision, spec.dtype)
    return spec.dtype if named == "nvfp4" and spec.dtype == "mxfp4" else named


def _file(source: str) -> str:
    """The file that a row was taken from, without what tells its rows apart."""
    return source.split(";")[0].strip()
