import pytest

from batchpilot.core.slo import SLO
from batchpilot.runners.stated import offered, promise_text
from batchpilot.workloads import RequestTable


@pytest.mark.parametrize(
    ("ttft_ms", "told"), [(10_000.0, "10000"), (123_456.0, "123456"), (2000.0, "2000"), (0.5, "0.5")]
)
def test_a_promise_is_no_power_of_ten(ttft_ms, told):
    assert promise_text(SLO(ttft_ms, 33.25)) == f"TTFT {told} ms, TPOT 33.25 ms"


def test_a_rate_is_no_power_of_ten():
    assert offered(RequestTable.from_arrays([0.5 * k for k in range(11)], 10, 10)) == "2000 requests/s"
