"""Manifests by which Kubernetes executes `batchpilot_desired_replicas`; they are written, never applied.

The metric is a number of replicas, so each replica's share of it is compared with 1: an autoscaler then wants as many
replicas as the metric says. Source: KEDA's `prometheus` trigger, Kubernetes' autoscaling/v2, llm-d's chart
`workload-variant-autoscaler`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from batchpilot.core.slo import SLO
from batchpilot.fleet.scalers import DESIRED_METRIC

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LONGEST_NAME = 63


@dataclass(frozen=True, slots=True)
class Target:
    """What is scaled, and within which bounds.

    Attributes:
        deployment: its name.
        namespace: where it is.
        least: fewest replicas, >= 0; 0 only under KEDA.
        most: most replicas, >= 1.
        interval_s: between looks.
        patience_s: a smaller number counts once it was wanted for so long.
        selector: of the metric, PromQL between braces, "" for all.

    Raises:
        ValueError: a name that Kubernetes would refuse, or bounds that are none.
    """

    deployment: str
    namespace: str = "default"
    least: int = 1
    most: int = 8
    interval_s: int = 30
    patience_s: int = 300
    selector: str = ""

    def __post_init__(self) -> None:
        for name in ("deployment", "namespace"):
            value = getattr(self, name)
            if not _NAME.fullmatch(value) or len(value) > _LONGEST_NAME:
                raise ValueError(
                    f"{name} {value!r} is no name in Kubernetes: small letters, digits and -, at most {_LONGEST_NAME}"
                )
        if not 0 <= self.least <= self.most or self.most < 1:
            raise ValueError(f"replicas are {self.least} to {self.most}; they must be 0 <= least <= most, most >= 1")
        if self.interval_s < 1 or not 0 <= self.patience_s <= 3600:
            raise ValueError(
                f"interval_s is {self.interval_s} and patience_s {self.patience_s}; "
                "they must be >= 1, and 0 to 3600 as Kubernetes allows"
            )

    @property
    def query(self) -> str:
        """How many replicas there should be, in PromQL: one series, whoever tells it."""
        return f"sum({DESIRED_METRIC}{{{self.selector}}})" if self.selector else f"sum({DESIRED_METRIC})"

    @property
    def behaviour(self) -> dict[str, Any]:
        """Up at once, since the decision has waited already; down once it was wanted for a while."""
        return {
            "scaleUp": {"stabilizationWindowSeconds": 0},
            "scaleDown": {"stabilizationWindowSeconds": self.patience_s},
        }

    @property
    def reference(self) -> dict[str, str]:
        """What is scaled, as Kubernetes names it."""
        return {"apiVersion": "apps/v1", "kind": "Deployment", "name": self.deployment}


def scaled_object(target: Target, prometheus: str) -> dict[str, Any]:
    """KEDA's `ScaledObject`.

    Args:
        target: what is scaled.
        prometheus: Prometheus' address as the cluster sees it.
    """
    trigger = {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {"serverAddress": prometheus, "query": target.query, "threshold": "1", "ignoreNullValues": "false"},
    }
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": f"{target.deployment}-batchpilot", "namespace": target.namespace},
        "spec": {
            "scaleTargetRef": target.reference,
            "pollingInterval": target.interval_s,
            "minReplicaCount": target.least,
            "maxReplicaCount": target.most,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": target.behaviour}},
            "triggers": [trigger],
        },
    }


def pod_autoscaler(target: Target) -> dict[str, Any]:
    """A horizontal pod autoscaler on the external metric, for clusters with a metrics adapter.

    Args:
        target: what is scaled.

    Raises:
        ValueError: no replicas at all are allowed, which needs KEDA.
    """
    if target.least < 1:
        raise ValueError("least is 0; a horizontal pod autoscaler keeps at least 1 replica, KEDA may keep none")
    metric = {"name": DESIRED_METRIC}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": f"{target.deployment}-batchpilot", "namespace": target.namespace},
        "spec": {
            "scaleTargetRef": target.reference,
            "minReplicas": target.least,
            "maxReplicas": target.most,
            "behavior": target.behaviour,
            "metrics": [
                {
                    "type": "External",
                    "external": {"metric": metric, "target": {"type": "AverageValue", "averageValue": "1"}},
                }
            ],
        },
    }


def llm_d_values(target: Target, model: str, accelerator: str, usd_per_hour: float | None, slo: SLO) -> dict[str, Any]:
    """Values for the chart of llm-d's autoscaler, which decides itself: bounds, cost and promise are ours.

    Args:
        target: what is scaled; the chart scales the deployment `NAME-decode` of `modelName` NAME.
        model: as clients ask for it.
        accelerator: device of a replica.
        usd_per_hour: cost of a replica, None where it is not known.
        slo: the promise; targets are told in whole ms.

    Raises:
        ValueError: a target of the promise is not finite, or no replicas at all are allowed.
    """
    if not (math.isfinite(slo.ttft_ms) and math.isfinite(slo.tpot_ms)):
        raise ValueError("the promise of llm-d's autoscaler needs both targets finite; give --ttft-ms and --tpot-ms")
    if target.least < 1:
        raise ValueError("least is 0, which llm-d's autoscaler takes only with scaleToZero; give at least 1")
    name = target.deployment.removesuffix("-decode")
    cost = {} if usd_per_hour is None else {"variantCost": f"{usd_per_hour:.2f}"}
    return {
        "llmd": {"namespace": target.namespace, "modelName": name, "modelID": model},
        "va": {
            "enabled": True,
            "accelerator": accelerator,
            **cost,
            "sloTpot": max(round(slo.tpot_ms), 1),
            "sloTtft": max(round(slo.ttft_ms), 1),
        },
        "hpa": {
            "enabled": True,
            "minReplicas": target.least,
            "maxReplicas": target.most,
            "targetAverageValue": "1",
            "behavior": target.behaviour,
        },
    }
