#!/usr/bin/env bash
# aiconfigurator-core 0.12.0: in its vLLM 0.24 table, products in block-scaled FP8 have a floor that no size explains.
#
# A product of m tokens with a 4096 x 4096 matrix takes a B200 0.16 to 0.19 ms in the table's type fp8_block, whether m is 1 or
# 4,096: a 4,096th of the arithmetic in nearly the same time, and 16 times what bfloat16, with twice the bytes, takes for one
# token. On an H200 one token takes 0.06 ms, five times bfloat16's. A launch from the host would look so; the table does not say.
#
# Seen: the four lines that are compared below.
# Why it matters: planned from this type, a layer of four such products costs a B200 0.6 ms a decode step, where bfloat16 has
# 0.04 ms, so FP8 checkpoints look slower than 16-bit ones at small batches, and capacity and cost follow.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv v; v/bin/pip install --quiet aiconfigurator-core==0.12.0 pandas==3.1.1 pyarrow==26.0.1 2>/dev/null
cat >see.py <<'PY'
from pathlib import Path

import aiconfigurator_core
import pandas

data = Path(aiconfigurator_core.__file__).parent / "systems/data"
for system in ("h200_sxm", "b200_sxm"):
    table = pandas.read_parquet(data / system / "gemm/vllm/0.24.0/gemm_perf.parquet")
    square = table[(table.n == 4096) & (table.k == 4096)]
    for kind in ("bfloat16", "fp8_block"):
        times = square[square.gemm_dtype == kind].set_index("m").latency
        print(f"{system} {kind}: {times[1]:.3f} ms for 1 token, {times[4096]:.3f} ms for 4096")
PY
v/bin/python see.py | tee seen.txt
diff seen.txt - <<'TXT'
h200_sxm bfloat16: 0.013 ms for 1 token, 0.168 ms for 4096
h200_sxm fp8_block: 0.061 ms for 1 token, 0.143 ms for 4096
b200_sxm bfloat16: 0.010 ms for 1 token, 0.090 ms for 4096
b200_sxm fp8_block: 0.156 ms for 1 token, 0.182 ms for 4096
TXT
