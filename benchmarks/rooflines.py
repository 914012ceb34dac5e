"""What do measured systems attain of their published figures? The roofline's constants, fitted and judged.

Fitted are the shares of compute and bandwidth, the time of a layer, a request and a hop, and the shares of links, on
every 16-bit deployment of the measured catalogue (over PCIe on one device and on pairs: beyond, measured all-reduces
differ by ten times between servers). Judged leaving one device out: the median ratio of estimated to measured steps,
decoding of 1 to 128 requests and prefill of 512 to 8,192 tokens, which must lie within 0.75 and 1.33.

    python benchmarks/rooflines.py [--dtype fp16]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec, device, model
from batchpilot.latency.measured.operators import SYSTEMS
from batchpilot.latency.measured.table import measured_entries
from batchpilot.latency.model.roofline import FITTED, SLOW_LINK, Attainable, roofline_of

DECODING = tuple(
    (size, size, size * context) for size, context in ((1, 1024), (4, 1024), (16, 1024), (64, 1024), (128, 2048))
)
PREFILL = ((1, 512, 0), (1, 2048, 0), (1, 8192, 0))
NAMES = ("compute", "expert_compute", "bandwidth", "layer_ms", "request_ms", "hop_ms", "link", "slow_link")
WITHIN = (0.75, 1.33)
PAIR = 2


@dataclass(frozen=True)
class Known:
    """A measured deployment and its steps in ms: decoding, then prefill."""

    device: DeviceSpec
    model: ModelSpec
    tensor_parallel: int
    dtype: str
    decode_ms: tuple[float, ...]
    prefill_ms: tuple[float, ...]


def known(dtype: str) -> list[Known]:
    """The deployments of the measured catalogue that the roofline is for."""
    found = []
    for name in SYSTEMS:
        for entry in measured_entries(name):
            chip = device(name)
            alone = entry.tensor_parallel == 1
            quick = chip.link_gb_per_s is not None and chip.link_gb_per_s > SLOW_LINK
            if entry.dtype != dtype or not (alone or quick or entry.tensor_parallel == PAIR):
                continue
            steps = [tuple(entry.served.predict_one(*step) for step in kind) for kind in (DECODING, PREFILL)]
            found.append(Known(chip, model(entry.model), entry.tensor_parallel, entry.dtype, *steps))
    return found


def ratios(one: Known, attainable: Attainable) -> tuple[list[float], list[float]]:
    """Estimated over measured times: decoding, prefill."""
    told = roofline_of(one.device, one.model, attainable, one.tensor_parallel, one.dtype)
    return tuple(
        [told.predict_one(*step) / true for step, true in zip(steps, times, strict=True)]
        for steps, times in ((DECODING, one.decode_ms), (PREFILL, one.prefill_ms))
    )  # type: ignore[return-value]


def fit(some: list[Known]) -> Attainable:
    """The constants that fit best, each device and kind of step counting alike."""
    count = {name: sum(one.device.name == name for one in some) for name in SYSTEMS}
    start = np.log([getattr(FITTED, name) for name in NAMES])

    def residuals(logs: np.ndarray) -> np.ndarray:
        attainable = replace(FITTED, **dict(zip(NAMES, np.exp(logs).tolist(), strict=True)))
        parts = []
        for one in some:
            for kind in ratios(one, attainable):
                parts.append(np.log(kind) / np.sqrt(count[one.device.name] * len(kind)))
        return np.concatenate(parts)

    found = least_squares(residuals, start, loss="soft_l1", f_scale=0.02, max_nfev=40)
    return replace(FITTED, **{name: float(f"{value:.2g}") for name, value in zip(NAMES, np.exp(found.x), strict=True)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="fp16", help="judge on this type; fitted is on 16 bits")
    options = parser.parse_args()
    all_of_them, judged = known("fp16"), known(options.dtype)
    print("fitted on all:", fit(all_of_them))
    print("in the package:", FITTED)
    inside = 0
    names = sorted({one.device.name for one in judged}, key=list(SYSTEMS).index)
    for name in names:
        constants = fit([one for one in all_of_them if one.device.name != name])
        both = [ratios(one, constants) for one in judged if one.device.name == name]
        decode, prefill = (float(np.median([x for pair in both for x in pair[kind]])) for kind in (0, 1))
        fits = all(WITHIN[0] <= value <= WITHIN[1] for value in (decode, prefill))
        inside += fits
        print(
            f"without {name:14s} {len(both):3d} deployments: decode {decode:.2f} prefill {prefill:.2f}",
            "" if fits else "OUTSIDE",
        )
    print(f"rooflines: {inside} of {len(names)} devices left out are within {WITHIN[0]} and {WITHIN[1]}")


if __name__ == "__main__":
    main()
