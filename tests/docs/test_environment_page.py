"""The tables of docs/environment.md are those of the code: a change of the one fails until the other follows."""

import re
from pathlib import Path

import numpy as np
import pytest

from batchpilot.baselines.static import SERVER_DEFAULT
from batchpilot.configs.fleet_scenario import fleet_scenario_names
from batchpilot.core import TRACKS
from batchpilot.core.actions import ACTION_MODES, MOVES, ActionTable
from batchpilot.core.features import BOUNDS, FEATURES
from batchpilot.core.grids import CHOSEN_BY_POLICIES, GRIDS
from batchpilot.envs import BatchingEnv, suite_ids
from batchpilot.envs.action_forms import ACTION_FORMS
from batchpilot.envs.fleet.actions import BATCH_FACTORS, FIELDS, WEIGHT_FACTORS
from batchpilot.envs.fleet.observing import FLEET_FEATURES, REPLICA_FEATURES

PAGE = (Path(__file__).parents[2] / "docs/environment.md").read_text()


def observation_rows():
    for one in FEATURES:
        over = one.a if one.b == "one" else f"{one.a} / {one.b}"
        neutral = f" ({one.neutral:g})" if one.neutral else ""
        yield f"| `{one.name}` | {over}{neutral} |"


def test_the_range_of_each_kind_stands_on_the_page():
    for kind, (low, high) in BOUNDS.items():
        assert f"*{kind}* ({low:g} to {high:g})" in PAGE


def test_a_feature_is_of_the_kind_that_the_page_reads_from_its_name():
    parts = {"_level": "level", "_against_": "against", "_fill": "fill"}
    for one in FEATURES:
        told = [kind for part, kind in parts.items() if part in one.name]
        assert [one.kind] == (told or ["fill" if one.name in ("goodput", "busy_throughput") else "share"])


MEASURED_IN = {
    **dict.fromkeys(("token_budget", "max_queued_tokens", "speculative_tokens"), "tokens"),
    **{"batch_size": "requests", "step_target_ms": "TPOT targets", "ttft_guard": "TTFT targets"},
    **{"refusal_bound": "1", "discipline": "-"},
}


def action_rows():
    for name, grid in GRIDS.items():
        table = ActionTable((name,), SERVER_DEFAULT)
        start = grid.values[table.start(100.0)[0]]
        notches = [value for value in grid.values if np.isfinite(value)]
        off = ", off" if len(notches) < len(grid.values) else ""
        what = f"{notches[0]:,.9g} to {notches[-1]:,.9g}{off}" if grid.ordered else ", ".join(CHOSEN_BY_POLICIES)
        begins = ("off" if np.isinf(start) else f"{start:,g}") if grid.ordered else CHOSEN_BY_POLICIES[0]
        tracks = ", ".join(track for track, fields in TRACKS.items() if name in fields)
        sizes = " / ".join(str(ActionTable((name,), SERVER_DEFAULT, mode).sizes[0]) for mode in ACTION_MODES)
        yield f"| `{name}` | {MEASURED_IN[name]} | {what} | {begins} | {sizes} | {tracks} |"


@pytest.mark.parametrize("rows", [observation_rows, action_rows])
def test_tables_are_those_of_the_code(rows):
    expected = "\n".join(rows())
    assert expected in PAGE, f"docs/environment.md should hold:\n{expected}"


def test_the_sizes_of_the_discrete_spaces_stand_on_the_page():
    sizes = [ACTION_FORMS["discrete"](ActionTable(fields, SERVER_DEFAULT)).space.n for fields in TRACKS.values()]
    *named, last = [f"{size:,}" for size in sizes]
    assert f"{', '.join(named)} or {last} relative moves" in PAGE


def test_every_id_and_what_info_tells_stand_on_the_page():
    for _, suite in suite_ids().values():
        assert f"`{suite}`" in PAGE
    env = BatchingEnv("quick-chat", decision_interval_ms=1e6)
    env.reset(seed=0)
    info = env.step(np.array([2, 2, 2]))[-1]
    for name in (*info, *info["episode"], "references", "normalised_score"):
        assert f"`{name}`" in PAGE
    assert f"`{list(MOVES)}`" in PAGE


def test_what_a_fleets_agent_sees_stands_on_the_page_in_its_order():
    told = re.findall(r"`(\w+)`", PAGE.split("First the fleet over the last")[1].split("`reward=`")[0])
    assert told == [one.name for one in (*FLEET_FEATURES, *REPLICA_FEATURES)]


def test_the_fleets_actions_and_scenarios_stand_on_the_page():
    section = PAGE.split("## A fleet\n")[1].split("## Other")[0]
    for name in (*FIELDS, *fleet_scenario_names()):
        assert f"`{name}`" in section
    for factors, over in ((BATCH_FACTORS, "batch size"), (WEIGHT_FACTORS, "weight")):
        *named, last = [f"{one:g}" if one >= 1 else f"1/{1 / one:g}" for one in factors]
        assert f"{', '.join(named)} or {last} times the {over} at the start" in section


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    pytest.importorskip("stable_baselines3")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(code.splitlines()) <= 20
    exec(compile(code.replace("100_000", "256"), "example", "exec"), {"__name__": "example"})
    assert (tmp_path / "agent.onnx").exists()
