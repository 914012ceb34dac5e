"""What README and docs show runs as shown."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = [
    pytest.param(code, id=f"{name}-{index}")
    for name in ("README.md", "docs/extending.md")
    for index, code in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL))
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_example_runs(code, capsys):
    names = {"__name__": "example"}
    exec(compile(code, "example", "exec"), names)
    printed = capsys.readouterr().out
    if "print(" in code:
        shipped, guarded = map(float, re.findall(r"\d\.\d\d", printed))
        assert guarded > shipped
    if "HalvingTuner" in names:
        from batchpilot import Limits, WindowMetrics

        tuner = names["HalvingTuner"]()
        tuner.tell(WindowMetrics(limits=Limits(8), tpot_ms_p95=200.0, tpot_target_ms=100.0))
        assert tuner.ask().batch_size == 4
        tuner.tell(WindowMetrics(limits=Limits(4), tpot_ms_p95=50.0, tpot_target_ms=100.0))
        assert tuner.ask().batch_size == 5


def test_every_command_is_documented():
    from batchpilot.runners.main import app

    text = (ROOT / "docs/cli.md").read_text()
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    commands += [group.name for group in app.registered_groups]
    for command in commands:
        assert f"`batchpilot {command}`" in text


def test_documents_link_to_files_that_exist():
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
