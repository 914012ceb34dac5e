"""What README and docs show runs as shown."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = [
    pytest.param(code, id=f"{name}-{index}")
    for name in ("README.md", "docs/start.md", "docs/extending.md")
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


def shown_commands():
    """Every command line of README and docs, indented or within backquotes, with where it stands."""
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for line in document.read_text().replace("\\\n", " ").splitlines():
            shown = (
                [line.strip()] if line.startswith("    batchpilot ") else re.findall(r"`(batchpilot [a-z][^`]*)`", line)
            )
            yield from ((document.name, text) for text in shown)


def test_every_shown_command_exists_with_its_options():
    from typer.main import get_command

    from batchpilot.runners.main import app

    seen = set()
    for document, text in shown_commands():
        words = shlex.split(text.split(" -- ")[0], comments=True)[1:]
        command = get_command(app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert command.name != get_command(app).name or words[:1] in (["--version"], ["--help"]), f"{document}: {text}"
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        given = {option for word in words if word.startswith("--") for option in word.split("=")[0].split("|")}
        assert given <= known, f"{document}: {text} has {', '.join(sorted(given - known))}"
        seen.add(command.name)
    assert len(seen) > 15
