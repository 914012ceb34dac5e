"""Three forms of actions that say the same, and the masks of sb3-contrib."""

import itertools

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from batchpilot.core import TRACKS, Limits
from batchpilot.core.actions import ActionTable
from batchpilot.envs import ENV_ID, BatchingEnv, BatchingVectorEnv
from batchpilot.envs.action_forms import ACTION_FORMS

MOVES = np.array([0, 4, 2])
"""A halving of the batch size, a doubling of the token budget, the queue limit as it is."""

SAYING_THE_SAME = {
    "multi-discrete": MOVES,
    "discrete": np.int64((0 * 5 + 4) * 5 + 2),
    "box": np.array([-1.0, 1.0, 0.1], np.float32),
}


@pytest.mark.parametrize("form", SAYING_THE_SAME)
def test_every_form_can_say_the_same(scenarios, form):
    env = BatchingEnv(scenarios["chat"], actions=form)
    env.reset(seed=0)
    action = SAYING_THE_SAME[form]
    assert action in env.action_space
    assert env.step(action)[-1]["limits"] == {"batch_size": 128, "token_budget": 4096}


@pytest.mark.parametrize("form", SAYING_THE_SAME)
def test_rows_take_the_actions_of_single_environments(scenarios, form):
    envs, env = BatchingVectorEnv(2, scenarios["chat"], actions=form), BatchingEnv(scenarios["chat"], actions=form)
    envs.reset(seed=3)
    envs.action_space.seed(0)
    actions = envs.action_space.sample()
    infos = envs.step(actions)[-1]
    for i in range(2):
        env.reset(seed=3 + i)
        limits = env.step(actions[i])[-1]["limits"]
        assert limits["batch_size"] == infos["limits"]["batch_size"][i]
        assert limits["token_budget"] == infos["limits"]["token_budget"][i]


@pytest.mark.parametrize("form", ACTION_FORMS)
@pytest.mark.parametrize("track", TRACKS)
def test_gymnasiums_checker_finds_nothing_wrong_with_any_form(scenarios, track, form):
    check_env(gymnasium.make(ENV_ID, scenario=scenarios["few"], track=track, actions=form).unwrapped)


def test_discrete_actions_are_all_combinations_each_once():
    table = ActionTable(TRACKS["limits"], Limits(256))
    form = ACTION_FORMS["discrete"](table)
    said = form.indices(np.arange(form.space.n), (int(form.space.n),))
    assert [tuple(row) for row in said.tolist()] == list(itertools.product(range(5), repeat=3))


def test_a_box_reaches_every_index_from_the_first_to_the_last():
    table = ActionTable(("batch_size",), Limits(256), "absolute")
    form = ACTION_FORMS["box"](table)
    said = form.indices(np.linspace(-1, 1, 1001)[:, None], (1001,))[:, 0]
    assert said.tolist() == sorted(said.tolist())
    assert set(said.tolist()) == set(range(table.sizes[0]))


@pytest.mark.parametrize(
    ("form", "action", "message"),
    [
        ("discrete", np.int64(125), "whole numbers from 0 to 124"),
        ("discrete", np.array([1]), "whole numbers from 0 to 124"),
        ("discrete", np.float64(3.0), "whole numbers from 0 to 124"),
        ("box", np.array([0.0, 0.0, 1.5]), "ClipAction"),
        ("box", np.array([0.0, 0.0, np.nan]), "from -1 to 1"),
        ("box", np.array([0.0, 0.0]), "from -1 to 1"),
    ],
)
def test_actions_outside_their_space_are_refused(scenarios, form, action, message):
    env = BatchingEnv(scenarios["chat"], actions=form)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="did you mean 'multi-discrete'"):
        BatchingEnv("quick-chat", actions="multidiscrete")


def test_masks_leave_out_what_a_smaller_move_does_as_well():
    table = ActionTable(TRACKS["limits"], Limits(256))
    last = [len(grid.values) - 1 for grid in table.grids]
    apart = [one.tolist() for one in table.told_apart([0, last[1] - 2, last[2]])]
    assert apart == [
        [False, False, True, True, True],
        [True, True, True, True, True],
        [True, True, True, False, False],
    ]
    assert table.told_apart([1, 5, 5])[0].tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("mode", ["relative", "absolute"])
def test_what_a_mask_leaves_out_leads_nowhere_new(track, mode):
    table = ActionTable(TRACKS[track], Limits(256), mode)
    rng = np.random.default_rng(0)
    for _ in range(50):
        position = rng.integers([len(grid.values) for grid in table.grids])
        for k, allowed in enumerate(table.told_apart(position)):
            led = []
            for index in range(table.sizes[k]):
                action = table.hold(position)
                action[k] = index
                led.append(int(table.move(position, action)[k]))
            reached = [notch for notch, may in zip(led, allowed, strict=True) if may]
            assert sorted(reached) == sorted(set(led))


@pytest.mark.parametrize("form", ["multi-discrete", "discrete"])
def test_masks_have_the_shape_that_maskable_ppo_reads(scenarios, form):
    env = BatchingEnv(scenarios["chat"], actions=form, base=Limits(1, token_budget=2048))
    envs = BatchingVectorEnv(3, scenarios["chat"], actions=form, base=Limits(1, token_budget=2048))
    with pytest.raises(RuntimeError, match="reset must be called"):
        env.action_masks()
    env.reset(seed=0)
    envs.reset(seed=0)
    one, many = env.action_masks(), envs.action_masks()
    space = env.action_space
    assert one.shape == ((int(space.n),) if form == "discrete" else (int(space.nvec.sum()),))
    assert one.dtype == np.bool_
    assert 0 < one.sum() < one.size
    np.testing.assert_array_equal(many, [one] * 3)


def test_masked_combinations_are_those_of_allowed_indices(scenarios):
    pair = [BatchingEnv(scenarios["chat"], actions=form, base=Limits(1)) for form in ("multi-discrete", "discrete")]
    for env in pair:
        env.reset(seed=0)
    by_limit, crossed = (env.action_masks() for env in pair)
    limits = np.split(by_limit, 3)
    for number, indices in enumerate(itertools.product(range(5), repeat=3)):
        assert crossed[number] == all(limits[k][index] for k, index in enumerate(indices))


def test_a_box_has_no_masks(scenarios):
    env = BatchingEnv(scenarios["chat"], actions="box")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="cannot be masked"):
        env.action_masks()
