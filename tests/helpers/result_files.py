"""Result files of load generators beside the tests of what is read: their content, and one with another value in it."""

import json
from pathlib import Path

from batchpilot.serving.formats.results import read_results

DATA = Path(__file__).parents[1] / "serving" / "formats" / "results" / "data"


def content(name):
    return json.loads((DATA / name).read_text())


def only(name):
    (run,) = read_results(DATA / name)
    return run


def changed(name, path, value, folder):
    """A file of results in which one value is another."""
    text = (DATA / name).read_text()
    content = [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file = folder / name
    file.write_text("\n".join(map(json.dumps, content)) if name.endswith("l") else json.dumps(content))
    return file
