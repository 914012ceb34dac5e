"""Parameters that the saturation document gives for three devices, to be looked up, not to be planned with.

They cannot be tokens per ms, the unit of its own formula: a model of seven billion parameters would have to be computed
many times faster than the devices' published arithmetic peak. The catalogue holds what was measured instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec
from batchpilot.core.names import lookup


class DocumentedRow(NamedTuple):
    """A device of the document.

    Attributes:
        p_max: as printed there.
        k_b: likewise.
    """

    p_max: float
    k_b: float

    def times_above_peak(self, device: DeviceSpec, model: ModelSpec) -> float:
        """How many times the device's arithmetic peak `p_max` tokens per ms of a model are.

        Args:
            device: with its published peak.
            model: two operations a parameter and token.
        """
        return self.p_max * 1000.0 * 2.0 * model.active / (device.peak_tflops * 1e12)


DOCUMENTED: Mapping[str, DocumentedRow] = {
    "A100-40GB": DocumentedRow(2500.0, 0.15),
    "A100-80GB": DocumentedRow(2800.0, 0.12),
    "H100-80GB": DocumentedRow(4200.0, 0.08),
}
"""By device. Source: throughput saturation document, parameter registry."""


def documented_row(device: str) -> DocumentedRow:
    """The document's parameters of a device.

    Args:
        device: a key of `DOCUMENTED`.

    Raises:
        ValueError: the document has no such device; the message names those it has.
    """
    return lookup(DOCUMENTED, device, "device of the saturation document")
