"""`batchpilot catalogue build`: entries from measured operators, one or all that are shipped."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec, models
from batchpilot.configs.catalogue import device as find_device
from batchpilot.configs.catalogue import model as find_model
from batchpilot.configs.footprint import kv_type, weight_type
from batchpilot.core.files import json_text
from batchpilot.latency.measured.operators import SYSTEMS
from batchpilot.latency.measured.shipping import Layout, build_entry, shipped_layouts
from batchpilot.latency.measured.table import MeasuredEntry, write_table
from batchpilot.runners.catalogue.compare_command import compare
from batchpilot.runners.options import CatalogueOption, JsonOption, reporting_mistakes

WORST = 0.25
"""Mean relative error of a kind of step beyond which a fit is not shipped."""

app = typer.Typer(help="Latencies of devices and models, from measured operators.", no_args_is_help=True)


app.command("compare")(compare)


@app.command()
@reporting_mistakes
def build(
    device: Annotated[str | None, typer.Option(help="One with measured operators, else all of these.")] = None,
    model: Annotated[str | None, typer.Option(help="A catalogued model, or a config.json or its folder.")] = None,
    engine: Annotated[str, typer.Option(help="vllm, sglang or trtllm.")] = "vllm",
    tensor_parallel: Annotated[int | None, typer.Option(min=1, help="Devices that share each layer.")] = None,
    expert_parallel: Annotated[int, typer.Option(min=1, help="Groups that these form for the experts.")] = 1,
    pipeline_parallel: Annotated[int, typer.Option(min=1, help="Stages.")] = 1,
    dtype: Annotated[str | None, typer.Option(help="Type of the weights; as published unless given.")] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="Type of the KV cache: fp16 or fp8.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for a file a device, as the catalogue ships them.")] = None,
    catalogue: CatalogueOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build catalogue entries: query measured operators on a grid of steps, fit, judge each kind of step."""
    chips = [find_device(device)] if device else [find_device(name) for name in SYSTEMS]
    served = [find_model(model)] if model else [one for one in models() if one.experts or one.aliases]
    one = tensor_parallel is not None and model is not None
    for chip in chips:
        entries = []
        for spec in served:
            layouts = (
                [
                    Layout(
                        engine=engine,
                        tensor_parallel=tensor_parallel or 1,
                        expert_parallel=expert_parallel,
                        pipeline_parallel=pipeline_parallel,
                        dtype=weight_type(dtype, spec),
                        kv_dtype=kv_type(kv_dtype, spec),
                    )
                ]
                if one
                else shipped_layouts(chip, spec, engine)
            )
            path = model if model is not None and Path(model).exists() else None
            entries += _built(chip, spec, layouts, path, strict=one, as_json=as_json)
        if out is not None and entries:
            write_table(out / f"{chip.name}.csv", entries)
            typer.echo(f"{out / chip.name}.csv: {len(entries)} entries", err=True)


def _built(
    chip: DeviceSpec, spec: ModelSpec, layouts: Iterable[Layout], path: str | None, *, strict: bool, as_json: bool
) -> list[MeasuredEntry]:
    entries = []
    for layout in layouts:
        try:
            entry = build_entry(chip, spec, layout, path)
        except ValueError as error:
            if strict or isinstance(error, ImportError):
                raise
            typer.echo(f"left out: {error}", err=True)
            continue
        if not strict and max(entry.errors.values()) > WORST:
            typer.echo(f"left out, the form does not hold: {entry.provenance}", err=True)
            continue
        entries.append(entry)
        if as_json:
            errors = {name: value if value == value else None for name, value in entry.errors.items()}
            typer.echo(json_text({"provenance": entry.provenance, "parameters": entry.parameters.to_dict()} | errors))
        else:
            typer.echo(entry.provenance)
    return entries
