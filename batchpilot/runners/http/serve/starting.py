"""The server itself: its model loaded, its routes open. Needs the extras `torch` and `serve`."""

from __future__ import annotations

from dataclasses import dataclass

from batchpilot.engines import detect_device
from batchpilot.engines.loading import load_runner
from batchpilot.engines.torch import ModelRunner, Telemetry
from batchpilot.engines.torch.telemetry import source_of
from batchpilot.runners.options import stdout_console
from batchpilot.serving.interpreter import keep_what_is_loaded
from batchpilot.serving.server.running import make_server
from batchpilot.serving.server.service import Service
from batchpilot.serving.server.text import Text, load_text


@dataclass(frozen=True)
class Weights:
    """The model, and how it is held.

    Attributes:
        model: preset, package or folder.
        device: torch device.
        threads: of torch on a processor.
        dtype: of the weights.
        kv_dtype: of the KV cache.
        kv_tokens: KV tokens to set aside.
        vision: whether a tower encodes images.
        draft_model: drafts what the model checks.
        seed: of random weights.
    """

    model: str
    device: str
    threads: int | None
    dtype: str
    kv_dtype: str
    kv_tokens: int | None
    vision: bool
    draft_model: str | None
    seed: int

    def load(self) -> tuple[Text, ModelRunner]:
        """Its tokenizer, and the model itself.

        Raises:
            ValueError: the model cannot be served as asked.
        """
        text = load_text(self.model)
        runner = load_runner(
            self.model,
            device=self.device,
            threads=self.threads,
            dtype=self.dtype,
            kv_dtype=self.kv_dtype,
            kv_capacity_tokens=self.kv_tokens,
            vision=self.vision,
            draft_model=self.draft_model,
            seed=self.seed,
        )
        return text, runner


def telemetry_of(runner: ModelRunner) -> Telemetry | None:
    """What reads the device, None where there is nothing to read.

    Args:
        runner: the model.
    """
    return Telemetry(source_of(runner.device)) if runner.device.type == "cuda" else None


def run(service: Service, host: str, port: int, tuner: str) -> None:
    """Serve until it is interrupted.

    Args:
        service: everything behind the routes.
        host: where to listen.
        port: likewise, 0 for any that is free.
        tuner: that sets the limits, as it is called.
    """

    def tell(bound_port: int) -> None:
        where = f"http://{f'[{host}]' if ':' in host else host}:{bound_port}"
        stdout_console().print(
            f"{service.config.model} on {where}, limits by {tuner}: {service.session.limits()}",
            highlight=False,
            soft_wrap=True,
        )

    server = make_server(service, host=host, port=port, device=detect_device(), on_start=tell, apart=True)
    keep_what_is_loaded()
    server.run()
