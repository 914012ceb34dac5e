"""AMD devices, through `rocm-smi`, else through what the kernel driver shows in sysfs."""

from __future__ import annotations

from pathlib import Path

from batchpilot.engines.detection.asking import Run, mapping, megabytes, read_json, read_text, run_command
from batchpilot.engines.detection.found import UNKNOWN, DetectedDevice

_VENDOR = "0x1002"


def probe_amd(run: Run = run_command, sysfs: Path = Path("/sys/class/drm")) -> DetectedDevice | None:
    """The first AMD device, None without one.

    Args:
        run: runs `rocm-smi`.
        sysfs: folder of the kernel's graphics cards.
    """
    return _by_command(run) or _by_sysfs(sysfs)


def _by_command(run: Run) -> DetectedDevice | None:
    """The card with the lowest name in rocm-smi's JSON; the capitals in its keys differ between versions."""
    cards = mapping(read_json(run(["rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json"])))
    for name in sorted(cards):
        if not name.lower().startswith("card"):
            continue
        card = {key.lower(): value for key, value in mapping(cards[name]).items()}
        model = card.get("card series") or card.get("card model") or UNKNOWN
        return _found(str(model), card.get("vram total memory (b)"), card.get("vram total used memory (b)"))
    return None


def _by_sysfs(sysfs: Path) -> DetectedDevice | None:
    for vendor in sorted(sysfs.glob("card*/device/vendor")):
        if read_text(vendor) == _VENDOR:
            card = vendor.parent
            return _found(
                read_text(card / "product_name") or UNKNOWN,
                read_text(card / "mem_info_vram_total"),
                read_text(card / "mem_info_vram_used"),
            )
    return None


def _found(model: str, total: object, used: object) -> DetectedDevice:
    """The device from its memory figures in bytes."""
    total_mb = megabytes(total)
    # Zero in use is a figure too, and a missing one is not zero.
    used_mb = 0.0 if str(used) == "0" else megabytes(used)
    free_mb = None if total_mb is None or used_mb is None else max(0.0, total_mb - used_mb)
    return DetectedDevice(kind="amd", model=model, total_memory_mb=total_mb, free_memory_mb=free_mb)
