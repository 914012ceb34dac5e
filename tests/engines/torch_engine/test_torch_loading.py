"""Models from presets, folders and objects; the memory they leave; block tables; prompts."""

import json

import numpy as np
import psutil
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from torch_workloads import own_model, runner, steady_clock

from batchpilot import Limits, RequestTable
from batchpilot.engines.torch import ModelRunner, TorchEngine, TorchEngineConfig, load_model
from batchpilot.engines.torch.cache import BlockTables
from batchpilot.engines.torch.device import peak_bytes
from batchpilot.engines.torch.warm_up import straight_line


def test_equal_seeds_give_equal_weights_and_leave_the_callers_random_state():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, again, other = (load_model("tiny-llama", seed=seed) for seed in (5, 5, 6))
    assert torch.rand(1) == expected
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_a_folder_with_weights_is_loaded(tmp_path):
    own_model().save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert torch.equal(loaded.lm_head.weight, own_model().lm_head.weight)


def test_a_folder_without_weights_gives_random_ones_of_that_size(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(own_model().config.to_dict()))
    loaded = load_model(tmp_path, dtype="bfloat16", seed=3)
    assert loaded.lm_head.weight.shape == own_model().lm_head.weight.shape
    assert loaded.dtype == torch.bfloat16


def test_an_unknown_name_is_answered_with_the_close_ones(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="did you mean 'tiny-llama'"):
        load_model("tiny-lama")


def test_kv_capacity_follows_from_free_memory():
    small, large = (ModelRunner("tiny-llama", memory_fraction=share, step_tokens=64) for share in (0.001, 0.002))
    token_bytes = small.memory.kv_mb_per_token * 2**20
    assert token_bytes == 2 * 2 * 2 * 16 * 4
    assert small.kv_capacity_tokens * token_bytes < 0.001 * psutil.virtual_memory().total
    assert 1.5 < large.kv_capacity_tokens / small.kv_capacity_tokens < 2.5


def test_more_kv_than_fits_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"that fit: cpu has .* MB free"):
        ModelRunner("tiny-llama", kv_capacity_tokens=2**40)


def test_an_engine_cannot_use_more_kv_than_its_runner_has():
    requests = RequestTable.from_arrays([0.0], [4], [4])
    with pytest.raises(ValueError, match="the runner has 1024"):
        TorchEngine(TorchEngineConfig(kv_capacity_tokens=2048), requests, runner())


def test_the_peak_counts_what_is_held_at_once():
    def work():
        for _ in range(3):
            first = torch.ones(250_000)
            second = first + 1.0
            del first, second

    # Next to the two arrays of a megabyte torch holds the number 1.0.
    assert 2_000_000 <= peak_bytes(work, torch.device("cpu")) < 2_000_100


def test_the_first_estimate_is_the_straight_line_through_the_steps():
    shapes = np.array([(1, 1, 0), (1, 64, 0), (8, 1, 64), (32, 1, 64), (8, 16, 512)], float)
    requests, tokens, context = shapes.T
    times = 2.0 + 0.1 * requests + 0.05 * requests * tokens + 0.001 * requests * context
    line = straight_line(shapes, times)
    np.testing.assert_allclose(line.predict(requests, requests * tokens, requests * context), times, rtol=1e-6)


def test_block_tables_give_no_block_twice_and_notice_a_wrong_count():
    tables = BlockTables(3, 6, 4)
    tables.follow(np.array([2, 0, 3]), 1)
    tables.follow(np.array([0, 4, 1]), 1)
    assert len(set(tables.owned().tolist())) == 5
    with pytest.raises(RuntimeError, match="the scheduler counts 3"):
        tables.follow(np.array([0, 4, 0]), 3)


def test_block_tables_grow_with_those_that_hold_blocks_together():
    tables = BlockTables(100, 6, 2)
    for r in range(100):
        counts = np.zeros(100, np.int64)
        counts[r] = 2
        tables.follow(counts, 4)
    assert tables.rows <= 2


def test_given_prompts_must_be_those_of_the_requests():
    requests = RequestTable.from_arrays(np.zeros(2), [3, 2], 2)
    for prompts, message in (
        ([[1, 2, 3]], "1 prompts for 2"),
        ([[1, 2], [1, 2]], "prompt 0 has 2 tokens"),
        ([[1, 2, 3], [1, 256]], "prompt 1 has a token id outside 0 to 255"),
    ):
        with pytest.raises(ValueError, match=message):
            TorchEngine(TorchEngineConfig(), requests, runner(), prompts=prompts)


def test_drawn_prompts_repeat_from_their_seed():
    requests = RequestTable.from_arrays(np.zeros(2), [30, 20], 2)
    first, again, other = (
        TorchEngine(TorchEngineConfig(seed=seed), requests, runner(), clock=steady_clock()) for seed in (1, 1, 2)
    )
    assert first.prompt(0).tolist() == again.prompt(0).tolist() != other.prompt(0).tolist()
    first.set_limits(Limits(2))
    first.run_until(100.0)
    assert first.prompt(1).tolist() == again.prompt(1).tolist()
