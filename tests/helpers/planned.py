"""Arguments of `batchpilot plan` for one engine, so that a plan takes a second."""

ONE = (
    "--device",
    "A100-80GB",
    "--model",
    "Llama-2-7B",
    "--tensor-parallel",
    1,
    "--dtype",
    "fp16",
    "--workload",
    "512,128",
)
