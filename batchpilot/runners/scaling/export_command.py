"""`batchpilot export-scaler`: manifests by which KEDA, a horizontal pod autoscaler or llm-d scale to the decision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from batchpilot.configs.catalogue import device as find_device
from batchpilot.configs.catalogue import prices as find_prices
from batchpilot.core.files import write_atomic
from batchpilot.core.names import lookup
from batchpilot.core.slo import SLO
from batchpilot.runners.options import DeviceOption, refuse, reporting_mistakes
from batchpilot.runners.scaling.manifests import Target, llm_d_values, pod_autoscaler, scaled_object
from batchpilot.runners.selection import check_promise

KINDS = {
    "keda": "a ScaledObject",
    "hpa": "a HorizontalPodAutoscaler, autoscaling/v2",
    "llm-d": "values of the chart workload-variant-autoscaler",
}


@reporting_mistakes
def export_scaler(
    context: typer.Context,
    deployment: Annotated[str, typer.Argument(help="Of the servers that are scaled.")],
    kind: Annotated[str, typer.Option(help="; ".join(f"{name}: {told}" for name, told in KINDS.items()))] = "keda",
    namespace: Annotated[str, typer.Option(help="Of the deployment.")] = "default",
    least: Annotated[int, typer.Option(min=0, help="Fewest replicas.")] = 1,
    most: Annotated[int, typer.Option(min=1, help="Most replicas.")] = 8,
    prometheus: Annotated[
        str, typer.Option(help="Its address as the cluster sees it.")
    ] = "http://prometheus.monitoring:9090",
    selector: Annotated[str, typer.Option(help='Of the metric\'s series: job="gateway".')] = "",
    interval_s: Annotated[int, typer.Option(min=1, help="Between looks.")] = 30,
    patience_s: Annotated[int, typer.Option(min=0, help="Fewer replicas count once wanted for so long.")] = 300,
    model: Annotated[str | None, typer.Option(help="As clients ask for it.")] = None,
    device: DeviceOption = None,
    ttft_ms: Annotated[float, typer.Option(help="Promised time to first token.")] = SLO().ttft_ms,
    tpot_ms: Annotated[float, typer.Option(help="Promised time per output token.")] = SLO().tpot_ms,
    out: Annotated[Path | None, typer.Option(help="Write this file instead of printing.")] = None,
) -> None:
    """Write the manifest that scales a deployment to batchpilot_desired_replicas; nothing is applied."""
    lookup(KINDS, kind, "kind of scaler")
    if kind != "keda":
        refuse(context, f"for {kind}", "prometheus", "selector", "interval_s")
    if kind != "llm-d":
        refuse(context, f"for {kind}", "model", "device", "ttft_ms", "tpot_ms")
    target = Target(deployment, namespace, least, most, interval_s, patience_s, selector)
    made: dict[str, Any]
    if kind == "keda":
        made = scaled_object(target, prometheus)
    elif kind == "hpa":
        made = pod_autoscaler(target)
    else:
        if model is None or device is None:
            raise ValueError("llm-d's autoscaler wants to know --model and --device")
        check_promise(ttft_ms, tpot_ms)
        chip = find_device(device)
        price = find_prices(None).get(chip.name)
        hourly = None if price is None else price.usd_per_hour
        made = llm_d_values(target, model, chip.name, hourly, SLO(ttft_ms, tpot_ms, "promised"))
    text = yaml.safe_dump(made, sort_keys=False, width=1000)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(out, text)
