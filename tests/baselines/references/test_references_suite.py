"""The fixed setting that is best on average over the training scenarios."""

import numpy as np
import pytest

from batchpilot.baselines.references.static_suite import (
    SHIPPED,
    best_on_average,
    read_settings,
    static_suite,
    suite_grid,
    write_settings,
)
from batchpilot.configs.errors import ConfigError
from batchpilot.configs.reading import read_yaml
from batchpilot.configs.scenario import suite
from batchpilot.core import Limits
from batchpilot.core.limits import TRACKS
from batchpilot.core.provenance import config_hash

SINCE = {
    "parameters": True,
    "promise": True,
    "engine": {"prefix_cache", "vision", "speculation", "tenants", "device_spread"},
    "workload": {"sharing", "conversations", "images"},
}
"""Fields that scenarios have had since, and that no catalogued one uses."""

SETTINGS = {track: (Limits(8), 0.5) for track in TRACKS}


@pytest.mark.parametrize("track", TRACKS)
def test_a_shipped_setting_is_one_of_its_tracks_grid(track):
    assert static_suite(track) in suite_grid(track)


def test_the_shipped_settings_belong_to_the_training_scenarios_as_they_are():
    origin = read_yaml(SHIPPED).data["provenance"]
    assert origin["scenarios_hash"] == config_hash([one.model_dump(exclude=SINCE) for one in suite("train")])
    assert origin["scenarios"] == len(suite("train"))


def test_a_larger_track_is_never_worse_on_average():
    share = read_yaml(SHIPPED).data["mean_goodput_share"]
    assert share["batch"] <= share["limits"] <= share["guarded"]


def test_every_run_weighs_the_same_and_a_track_keeps_to_its_grid():
    grid = suite_grid("guarded")
    shares = np.zeros((2, len(grid)))
    batch, limits = suite_grid("batch")[3], suite_grid("limits")[-1]
    shares[:, grid.index(batch)] = 0.4, 0.2
    shares[:, grid.index(limits)] = 0.9, 0.0
    assert best_on_average(list(shares), "batch") == (batch, pytest.approx(0.3))
    assert best_on_average(list(shares), "guarded") == (limits, pytest.approx(0.45))
    with pytest.raises(ValueError, match="no run"):
        best_on_average([], "batch")
    with pytest.raises(ValueError, match="did you mean 'batch'"):
        best_on_average(list(shares), "batches")


def test_settings_survive_their_file(tmp_path):
    path = write_settings(tmp_path / "found.yaml", SETTINGS, {"command": "x"})
    assert read_settings(path) == {track: limits for track, (limits, _) in SETTINGS.items()}


def test_a_wrong_file_is_refused_with_its_line(tmp_path):
    path = write_settings(tmp_path / "found.yaml", SETTINGS, {})
    path.write_text(path.read_text().replace("batch_size: 8", "batch_sise: 8", 1))
    with pytest.raises(ConfigError, match=r"did you mean 'batch_size'.*line 3"):
        read_settings(path)
    path.write_text("settings: {batch: {batch_size: 8}}\n")
    with pytest.raises(ConfigError, match="batch, limits, guarded"):
        read_settings(path)
