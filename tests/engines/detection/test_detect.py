"""What the probes make of recorded answers of drivers and commands, and of answers that make no sense."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.engines.detection import (
    DetectedDevice,
    probe_amd,
    probe_apple,
    probe_cpu,
    probe_intel,
    probe_nvidia,
    with_catalogue,
)
from batchpilot.engines.detection.detect import detect_device

GIB = 2**30


class RecordedNvml:
    """Answers of a driver by question; an unanswered question fails as the driver's library does."""

    class NVMLError(Exception):
        """Any failure of the library."""

    NVML_CLOCK_MEM = 2

    def __init__(self, **answers):
        self._answers = {"nvmlInit": None, "nvmlShutdown": None, "nvmlDeviceGetHandleByIndex": "handle", **answers}

    def __getattr__(self, question):
        if question not in self._answers:
            raise AttributeError(question)

        def answer(*_):
            if isinstance(self._answers[question], Exception):
                raise self._answers[question]
            return self._answers[question]

        return answer


A100 = {
    "nvmlDeviceGetName": "NVIDIA A100-SXM4-40GB",
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=40 * GIB, free=39 * GIB),
    "nvmlDeviceGetMaxClockInfo": 1215,
    "nvmlDeviceGetMemoryBusWidth": 5120,
    "nvmlDeviceGetNumGpuCores": 6912,
    "nvmlDeviceGetCudaComputeCapability": (8, 0),
}

ROCM_SMI = {
    "card0": {
        "Card series": "AMD Instinct MI250X",
        "Card model": "0x0b0c",
        "Card vendor": "Advanced Micro Devices, Inc. [AMD/ATI]",
        "VRAM Total Memory (B)": "68702699520",
        "VRAM Total Used Memory (B)": "10960896",
    },
    "system": {"Driver version": "5.18.13"},
}

XPU_SMI = {
    "device_id": 0,
    "device_name": "Intel(R) Arc(TM) A770 Graphics",
    "memory_physical_size_byte": "16225243136",
    "memory_free_size_byte": "16000000000",
    "number_of_eus": "512",
}

MACHINE = {
    ("sysctl", "-n", "machdep.cpu.brand_string"): "Apple M3 Pro\n",
    ("sysctl", "-n", "hw.memsize"): f"{36 * GIB}\n",
    ("system_profiler", "SPDisplaysDataType", "-json"): json.dumps(
        {"SPDisplaysDataType": [{"_name": "Display"}, {"_name": "Apple M3 Pro", "sppci_cores": "18"}]}
    ),
}


def says(output):
    """A command runner that answers every command alike."""
    return lambda command: output


def sysfs(folder, **files):
    """A card in sysfs, beside a connector that is none."""
    card = folder / "card0" / "device"
    card.mkdir(parents=True)
    (folder / "card0-DP-1").mkdir()
    for name, content in files.items():
        (card / name).write_text(f"{content}\n")
    return folder


def test_an_nvidia_driver_tells_everything_but_the_throughput():
    found = probe_nvidia(RecordedNvml(**A100))
    assert found == DetectedDevice(
        kind="nvidia",
        model="NVIDIA A100-SXM4-40GB",
        total_memory_mb=40 * 1024,
        free_memory_mb=39 * 1024,
        compute_units=108,
        bandwidth_gb_per_s=pytest.approx(1555.2),
    )
    assert with_catalogue(found).peak_tflops == 312


@pytest.mark.parametrize(
    ("question", "field", "left"),
    [
        ("nvmlDeviceGetName", "model", "unknown"),
        ("nvmlDeviceGetMemoryInfo", "total_memory_mb", None),
        ("nvmlDeviceGetMemoryBusWidth", "bandwidth_gb_per_s", None),
        ("nvmlDeviceGetMaxClockInfo", "bandwidth_gb_per_s", None),
        ("nvmlDeviceGetNumGpuCores", "compute_units", None),
        ("nvmlDeviceGetCudaComputeCapability", "compute_units", None),
    ],
)
def test_a_question_the_driver_refuses_leaves_its_field_unknown(question, field, left):
    found = probe_nvidia(RecordedNvml(**A100 | {question: RecordedNvml.NVMLError("not supported")}))
    assert getattr(found, field) == left


def test_a_library_that_lacks_the_questions_still_gives_the_device():
    assert probe_nvidia(RecordedNvml(nvmlDeviceGetName=b"Tesla T4")) == DetectedDevice(kind="nvidia", model="Tesla T4")


def test_several_devices_are_counted():
    assert probe_nvidia(RecordedNvml(**A100, nvmlDeviceGetCount=8)).count == 8
    assert probe_nvidia(RecordedNvml(**A100)).count == 1


@pytest.mark.parametrize("question", ["nvmlInit", "nvmlDeviceGetHandleByIndex"])
def test_no_driver_or_no_device_is_no_nvidia(question):
    assert probe_nvidia(RecordedNvml(**{question: RecordedNvml.NVMLError("not found")})) is None


@pytest.mark.parametrize("rename", [str, str.title], ids=["older", "newer"])
def test_rocm_smi_tells_name_and_memory_in_either_spelling_of_its_keys(rename, tmp_path):
    cards = {"card0": {rename(key): value for key, value in ROCM_SMI["card0"].items()}}
    found = probe_amd(says(json.dumps(cards)), tmp_path)
    assert found.model == "AMD Instinct MI250X"
    assert found.total_memory_mb == 68702699520 / 2**20
    assert found.free_memory_mb == (68702699520 - 10960896) / 2**20
    assert with_catalogue(found).bandwidth_gb_per_s == 1638.4


def test_an_amd_device_without_rocm_smi_is_read_from_sysfs(tmp_path):
    folder = sysfs(tmp_path, vendor="0x1002", mem_info_vram_total=64 * GIB, mem_info_vram_used=0)
    found = probe_amd(says(None), folder)
    assert (found.model, found.total_memory_mb, found.free_memory_mb) == ("unknown", 64 * 1024, 64 * 1024)


def test_another_vendors_card_is_no_amd(tmp_path):
    assert probe_amd(says(None), sysfs(tmp_path, vendor="0x10de")) is None


def test_xpu_smi_tells_name_memory_and_cores(tmp_path):
    found = probe_intel(says(json.dumps(XPU_SMI)), tmp_path)
    assert (found.kind, found.compute_units) == ("intel", 32)
    assert found.free_memory_mb < found.total_memory_mb
    assert with_catalogue(found).bandwidth_gb_per_s == 560


def test_a_discrete_intel_device_without_xpu_smi_is_read_from_sysfs(tmp_path):
    folder = sysfs(tmp_path, vendor="0x8086", device="0x56a0")
    (folder / "card0" / "lmem_total_bytes").write_text(f"{16 * GIB}\n")
    found = probe_intel(says(None), folder)
    assert (found.model, found.total_memory_mb) == ("Intel Arc A770", 16 * 1024)


def test_graphics_inside_an_intel_processor_are_left_to_the_cpu(tmp_path):
    assert probe_intel(says(None), sysfs(tmp_path, vendor="0x8086", device="0x3e92")) is None


def test_an_apple_machine_tells_name_memory_and_cores():
    found = probe_apple(lambda command: MACHINE.get(tuple(command)), lambda: 20 * GIB)
    assert found == DetectedDevice(
        kind="apple", model="Apple M3 Pro", total_memory_mb=36 * 1024, free_memory_mb=20 * 1024, compute_units=18
    )
    assert with_catalogue(found).bandwidth_gb_per_s == 150


def test_an_intel_mac_is_no_apple_device():
    assert probe_apple(says("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz\n")) is None


def test_the_processor_is_named_by_the_kernel(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: AMD EPYC 7763 64-Core Processor\n")
    found = probe_cpu(cpuinfo)
    assert (found.kind, found.model) == ("cpu", "AMD EPYC 7763 64-Core Processor")
    assert 0 < found.free_memory_mb <= found.total_memory_mb
    assert found.compute_units >= 1


def test_a_processor_the_kernel_does_not_name_is_still_found(tmp_path):
    assert probe_cpu(tmp_path / "absent").kind == "cpu"


@pytest.mark.parametrize(
    ("kind", "model", "tflops"),
    [
        ("nvidia", "NVIDIA H100 80GB HBM3", 989.4),
        ("nvidia", "NVIDIA A100-SXM4-80GB", 312),
        ("nvidia", "NVIDIA A10", 125),
        ("nvidia", "NVIDIA A10G", None),
        ("nvidia", "NVIDIA A100X", None),
        ("nvidia", "NVIDIA GeForce RTX 4090", None),
        ("nvidia", "unknown", None),
        ("apple", "Apple M3 Ultra", 28.6),
        ("apple", "Apple M3 Max", None),
        ("cpu", "Intel(R) Xeon(R) CPU @ 2.20GHz", None),
    ],
)
def test_only_a_device_that_is_surely_meant_is_taken_from_the_catalogue(kind, model, tflops):
    assert with_catalogue(DetectedDevice(kind=kind, model=model)).peak_tflops == tflops


def test_what_the_driver_tells_is_not_overruled():
    found = DetectedDevice(kind="nvidia", model="Tesla T4", bandwidth_gb_per_s=300.0, compute_units=20)
    assert with_catalogue(found) == DetectedDevice(
        kind="nvidia", model="Tesla T4", bandwidth_gb_per_s=300.0, compute_units=20, peak_tflops=65
    )


def test_the_first_probe_with_an_answer_decides():
    card = DetectedDevice(kind="amd", model="AMD Instinct MI250X")
    assert detect_device([lambda: None, lambda: card, probe_cpu]).kind == "amd"


def test_the_processor_answers_when_nothing_else_does():
    assert detect_device([lambda: None]).kind == "cpu"


def test_this_machine_has_a_device():
    found = detect_device()
    assert found.kind in ("nvidia", "amd", "apple", "intel", "cpu")
    assert found.model


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
smi_keys = st.sampled_from([*ROCM_SMI["card0"], *XPU_SMI, "card0", "SPDisplaysDataType", "sppci_cores"])
nonsense = st.text() | json_values.map(json.dumps) | st.recursive(
    json_values, lambda inner: st.dictionaries(smi_keys, inner), max_leaves=8
).map(json.dumps)  # fmt: skip


@given(nonsense)
def test_no_output_of_a_command_makes_a_probe_fail(tmp_path_factory, output):
    empty = tmp_path_factory.getbasetemp()
    for found in (
        probe_amd(says(output), empty),
        probe_intel(says(output), empty),
        probe_apple(says(f"Apple{output}"), lambda: 1),
        probe_apple(lambda command: "Apple M3" if command[0] == "sysctl" else output, lambda: 1),
    ):
        assert found is None or found.model
