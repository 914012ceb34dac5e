"""Images in workloads: drawn from a model, read from a trace, carried through tables."""

import numpy as np
import pytest

from batchpilot.configs.errors import ConfigError
from batchpilot.configs.scenario import load_scenario, scenario
from batchpilot.configs.workload_spec import Workload
from batchpilot.core import SLO_CLASSES, Limits
from batchpilot.engines import simulate
from batchpilot.envs.scenarios import prepare
from batchpilot.latency import SaturationParameters
from batchpilot.latency.model.vision_tower import VisionTower
from batchpilot.runners.http.load.importing import trace_text
from batchpilot.workloads import TraceError, build_requests, read_trace
from batchpilot.workloads.build import make_images
from batchpilot.workloads.drawn_images import ImageModel, add_images

PHASE = {
    "duration_s": 100,
    "arrivals": {"kind": "poisson", "rate_per_s": 10.0},
    "lengths": {"kind": "fixed", "prompt_tokens": 100, "output_tokens": 20},
}
IMAGES = {"share": 0.5, "sizes": {224: 1, 336: 2, 448: 1}, "different": 40, "zipf": 1.0}


LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.008, tau_0=5.0, tau_b=0.02, tau_c=3e-4)
TALK = {
    "duration_s": 400,
    "arrivals": {"kind": "poisson", "rate_per_s": 0.3},
    "requests": {"median": 4, "sigma": 0.5, "max": 9},
    "system_tokens": 128,
    "system_kinds": 2,
    "first_tokens": {"median": 30, "sigma": 0.3, "min": 1, "max": 100},
    "message_tokens": {"median": 30, "sigma": 0.3, "min": 1, "max": 100},
    "output_tokens": {"median": 20, "sigma": 0.3, "min": 1, "max": 100},
    "think": {"median_s": 2.0, "sigma": 0.2, "max_s": 10.0},
    "max_context_tokens": 2000,
}


def draw_turns(more):
    return build({"conversations": TALK, **more})


def build(workload, seed=0, capacity_per_s=lambda prompt, output: 10.0):
    return build_requests(Workload.model_validate(workload), SLO_CLASSES, np.random.default_rng(seed), capacity_per_s)


def test_a_share_of_the_requests_has_images_on_top_of_their_text():
    table = build({"phases": [PHASE], "images": IMAGES})
    shown = table.images.shown
    assert shown.mean() == pytest.approx(0.5, abs=0.05)
    assert (table.images.side_px == 336)[shown].mean() == pytest.approx(0.5, abs=0.07)
    np.testing.assert_array_equal(table.prompt_tokens, 100 + table.images.tokens)
    assert sorted(set(table.images.tokens)) == [0, 256, 576, 1024]
    assert len(np.unique(table.images.contents())) - 1 <= 3 * 40
    popular = np.bincount(table.images.number[table.images.each])
    assert popular[0] > 5 * popular[20]


def test_without_images_every_request_is_what_it_was():
    plain, with_images = (build({"phases": [PHASE], **rest}) for rest in ({}, {"images": {"share": 0.0}}))
    np.testing.assert_array_equal(plain.arrival_ms, with_images.arrival_ms)
    np.testing.assert_array_equal(plain.prompt_tokens, with_images.prompt_tokens)
    np.testing.assert_array_equal(plain.priority, with_images.priority)
    assert plain.images is None
    assert not with_images.images.shown.any()


def test_equal_seeds_draw_equal_images():
    first, again, other = (build({"phases": [PHASE], "images": IMAGES}, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.images.number, again.images.number)
    assert not np.array_equal(first.images.side_px[:500], other.images.side_px[:500])


def test_a_prompt_that_begins_with_an_image_shares_its_blocks_with_those_that_begin_with_the_same():
    table = build({"phases": [PHASE], "images": {"share": 1.0, "different": 2}})
    assert set(table.prefixes.blocks()) == {36}
    assert table.prefixes.different == 72
    first, second = (np.flatnonzero(table.images.number == k)[:2] for k in (0, 1))
    hashes = [table.prefixes.select(np.array([r])).hashes.tolist() for r in (*first, *second)]
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]


def test_behind_a_shared_text_an_image_begins_where_the_text_ends():
    sharing = {"levels": [{"tokens": 64}], "block_tokens": 16}
    table = build({"phases": [PHASE], "images": IMAGES, "sharing": sharing})
    shown = table.images.shown
    assert set(table.images.before_tokens[shown, 0]) == {64}
    assert table.prefixes.different == 4


def test_a_load_counts_the_tokens_of_images():
    asked = []

    def capacity(prompt, output):
        asked.append(prompt)
        return 10.0

    by_load = PHASE | {"arrivals": {"kind": "poisson", "load": 1.0}}
    build({"phases": [by_load], "images": {"share": 0.5}}, capacity_per_s=capacity)
    assert asked == [100 + 0.5 * 576]


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ({"share": 1.5}, "share"),
        ({"share": 0.5, "sizes": {300: 1}}, "a side of 300 px is none of 224, 336, 448"),
        ({"share": 0.5, "sizes": {224: 0}}, "give at least one size a weight above 0"),
        ({"share": 0.5, "different": 0}, "different"),
    ],
)
def test_images_that_cannot_be_drawn_are_refused_in_words(images, told):
    with pytest.raises(ValueError, match=told):
        Workload.model_validate({"phases": [PHASE], "images": images})


def test_images_are_not_added_to_turns_that_were_drawn_without():
    turns = draw_turns({})
    with pytest.raises(ValueError, match="turns repeat what was shown before"):
        add_images(turns, ImageModel(0.5, {224: 1}), np.random.default_rng(0))


SCENARIO = """\
name: pictures
description: A test.
family: stationary
device: H100-80GB
model: Llama-3-8B
workload:
  phases:
    - duration_s: 20
      arrivals: {kind: poisson, rate_per_s: 5}
      lengths: {kind: fixed, prompt_tokens: 100, output_tokens: 20}
  images: {share: 0.5, sizes: {336: 1}}
engine:
  vision: VISION
"""


def scenario_with(tmp_path, vision):
    path = tmp_path / "pictures.yaml"
    path.write_text(SCENARIO.replace("VISION", vision))
    return load_scenario(path)


def test_a_scenario_says_what_encodes_its_images(tmp_path):
    prepared = prepare(scenario_with(tmp_path, "{tower: clip-vit-l14, feature_cache: 50, together: 4}"), 0)
    tower = prepared.engine.vision
    assert (tower.feature_cache, tower.together) == (50, 4)
    assert 1.0 < tower.encode_ms(336) < 5.0
    own = prepare(scenario_with(tmp_path, "{pass_ms: 3, token_ms: 0.01}"), 0).engine.vision
    assert own.encode_ms(224, 2) == pytest.approx(3 + 0.01 * 512)


def test_a_named_tower_takes_memory_and_one_of_stated_times_does_not(tmp_path):
    named, stated = (
        prepare(scenario_with(tmp_path, vision), 0).engine.memory
        for vision in ("{tower: internvit-6b}", "{pass_ms: 3, token_ms: 0.01}")
    )
    assert named.fixed_mb - stated.fixed_mb == pytest.approx(1.1 * 2 * 5.9e9 / 2**20)
    assert named.kv_capacity_tokens < stated.kv_capacity_tokens


@pytest.mark.parametrize("vision", ["{pass_ms: 3}", "{tower: clip-vit-l14, pass_ms: 1, token_ms: 1}", "{together: 2}"])
def test_a_tower_is_named_or_stated_and_not_both(tmp_path, vision):
    with pytest.raises(ConfigError, match="give either a tower, or both pass_ms and token_ms"):
        scenario_with(tmp_path, vision)


def test_what_is_off_leaves_the_fingerprint_of_a_scenario_as_it_was():
    content = scenario("quick-shift").content()
    assert "images" not in content["workload"]
    assert "vision" not in content["engine"]


TRACE = """\
arrival_ms,prompt_tokens,output_tokens,image_size,image_id
0,600,5,336,cat
10,40,5,,
20,700,5,336,cat
30,1100,5,448,cat
40,300,5,224,
50,300,5,224,
60,20,5,0,
"""


def test_a_trace_tells_which_requests_have_images(tmp_path):
    path = tmp_path / "pictures.csv"
    path.write_text(TRACE)
    images = read_trace(path, "csv").images
    assert images.side_px[:, 0].tolist() == [336, 0, 336, 448, 224, 224, 0]
    contents = images.contents()
    assert contents[0] == contents[2]
    assert len(set(contents[images.each])) == 4, "a size or no name of its own makes it another image"
    path.write_text(TRACE.replace("image_size,image_id", "px,which"))
    again = read_trace(path, "csv", image_size_column="px", image_id_column="which").images
    np.testing.assert_array_equal(again.contents(), contents)
    assert read_trace(path, "csv").images is None


def test_a_trace_that_is_written_with_images_is_read_back(tmp_path):
    path = tmp_path / "pictures.csv"
    path.write_text(TRACE)
    table = read_trace(path, "csv")
    path.write_text(trace_text(table))
    again = read_trace(path, "csv")
    np.testing.assert_array_equal(again.images.side_px, table.images.side_px)
    same, same_again = (np.equal.outer(one.images.contents(), one.images.contents()) for one in (table, again))
    np.testing.assert_array_equal(same, same_again)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            "0,600,5,300,cat",
            "line 2: image_size is '300'; expected 224, 336, 448, several between semicolons, or nothing",
        ),
        ("0,500,5,336,cat", "line 2: prompt_tokens is 500; expected at least the 576 tokens of its image of 336 px"),
    ],
)
def test_a_row_whose_image_cannot_be_is_refused_in_words(tmp_path, row, told):
    path = tmp_path / "pictures.csv"
    path.write_text(TRACE.splitlines()[0] + "\n" + row + "\n")
    with pytest.raises(TraceError, match=told):
        read_trace(path, "csv")


def test_all_turns_of_a_conversation_repeat_its_image_behind_the_system_prompt():
    table = draw_turns({"images": {"share": 0.6, "different": 3}})
    images, session, first = table.images, table.turns.session, table.turns.first_of()
    assert 0.4 < images.shown[table.turns.first()].mean() < 0.8
    np.testing.assert_array_equal(images.side_px, images.side_px[first])
    np.testing.assert_array_equal(images.contents(), images.contents()[first])
    assert set(images.before_tokens[images.each].tolist()) == {128}
    assert (table.prompt_tokens + table.output_tokens).max() <= 2000
    assert (table.prompt_tokens - images.tokens > 128).all()

    def beginning(r):
        prefixes = table.prefixes
        return tuple(prefixes.hashes[prefixes.starts[r] :][: images.end_tokens[r] // prefixes.block_tokens])

    shown = np.flatnonzero(images.shown & table.turns.first())
    alike = {beginning(r): int(images.contents()[r, 0]) for r in shown}
    assert len(alike) == 2 * 3 < len(shown)  # two system prompts, three images
    later = np.flatnonzero(images.shown & ~table.turns.first())
    assert all(beginning(r) == beginning(first[r]) for r in later)
    assert len(set(session[later].tolist())) > 20

    def encoded(features, **how):
        tower = VisionTower(pass_ms=5.0, token_ms=0.01, feature_cache=features)
        result = simulate(table, LATENCY, Limits(32, token_budget=2048), vision=tower, **how)
        assert result.count("length") == len(table)
        return result.image_hit_rate

    assert encoded(0) == 0
    assert encoded(0, prefix_cache=True) > 0.9  # what has its KV needs no features
    assert encoded(100) > 0.9


SEVERAL = {**IMAGES, "per_request": {1: 0.7, 2: 0.2, 4: 0.1}}


def test_a_request_has_as_many_images_as_the_weights_say():
    table = build({"phases": [PHASE], "images": SEVERAL})
    counts = table.images.each.sum(axis=1)
    assert table.images.most == 4
    assert (counts > 0).mean() == pytest.approx(0.5, abs=0.05)
    assert [(counts[counts > 0] == k).mean() for k in (1, 2, 3, 4)] == pytest.approx([0.7, 0.2, 0.0, 0.1], abs=0.06)
    np.testing.assert_array_equal(table.prompt_tokens, 100 + table.images.tokens)
    np.testing.assert_array_equal(table.images.end_tokens, table.images.tokens)
    model = make_images(Workload.model_validate({"phases": [PHASE], "images": SEVERAL}).images)
    assert model.mean_tokens == pytest.approx(table.images.tokens.mean(), rel=0.15)


def test_prompts_share_the_blocks_of_images_that_they_begin_with_in_the_same_order():
    two = {"share": 1.0, "sizes": {224: 1}, "different": 2, "per_request": {2: 1}}
    table = build({"phases": [PHASE], "images": two})
    prefixes, contents = table.prefixes, table.images.contents()
    assert set(prefixes.blocks()) == {32}
    hashes = prefixes.hashes.reshape(-1, 32)
    for row in range(1, 40):
        alike = int(np.cumprod(contents[row] == contents[0]).sum())
        assert int((hashes[row] == hashes[0]).sum()) == 16 * alike
    assert len(set(map(tuple, contents.tolist()))) == 4


@pytest.mark.parametrize(
    ("per_request", "told"),
    [({0: 1}, "0 images a request is none of 1 to 8"), ({9: 1}, "9 images"), ({2: 0}, "all weights are 0")],
)
def test_counts_that_cannot_be_are_refused(per_request, told):
    with pytest.raises(ValueError, match=told):
        Workload.model_validate({"phases": [PHASE], "images": {**IMAGES, "per_request": per_request}})


def test_turns_repeat_all_images_of_their_conversation_and_share_what_begins_alike():
    images = {"share": 0.8, "sizes": {224: 1}, "different": 2, "per_request": {1: 1, 2: 1}}
    table = draw_turns({"images": images})
    shown, first, prefixes = table.images, table.turns.first_of(), table.prefixes
    np.testing.assert_array_equal(shown.contents(), shown.contents()[first])
    assert set(shown.each.sum(axis=1).tolist()) == {0, 1, 2}

    def beginning(r, images):
        return tuple(prefixes.hashes[prefixes.starts[r] :][: (128 + 256 * images) // prefixes.block_tokens])

    two = np.flatnonzero(shown.each.sum(axis=1) == 2)
    one = np.flatnonzero(shown.each.sum(axis=1) >= 1)
    assert len({beginning(r, 2) for r in two}) == 2 * 2 * 2
    # Who shows one image, and who shows it before another, begin alike as far as that image.
    assert len({beginning(r, 1) for r in one}) == 2 * 2


def test_a_trace_may_show_several_images_between_semicolons(tmp_path):
    path = tmp_path / "pictures.csv"
    header = TRACE.splitlines()[0]
    path.write_text(header + "\n0,900,5,336;224,cat;dog\n10,900,5,224,dog\n20,900,5,,\n30,900,5,224;224,\n")
    table = read_trace(path, "csv")
    assert table.images.side_px.tolist() == [[336, 224], [224, 0], [0, 0], [224, 224]]
    contents = table.images.contents()
    assert contents[0, 1] == contents[1, 0]
    assert len(set(contents[table.images.each])) == 4
    assert table.images.before_tokens[0].tolist() == [0, 576]
    path.write_text(trace_text(table))
    np.testing.assert_array_equal(read_trace(path, "csv").images.side_px, table.images.side_px)
    for row, told in (
        ("0,900,5,336;224,cat", "image_id is 'cat'; expected as many between semicolons as sizes, 2"),
        ("0,900,5,336;,cat;dog", "expected a size of each image"),
        ("0,800,5,336;224,cat;dog", "expected at least the 832 tokens of its image of 336 px and 224 px"),
        ("0,9000,5," + ";".join(["224"] * 9) + ",", "holds 9 images; expected at most 8"),
    ):
        path.write_text(f"{header}\n{row}\n")
        with pytest.raises(TraceError, match=told):
            read_trace(path, "csv")


def test_a_load_that_draws_no_request_shows_no_image_whatever_requests_may_have():
    rare = PHASE | {"arrivals": {"kind": "poisson", "rate_per_s": 1e-9}}
    table = build({"phases": [rare], "images": SEVERAL})
    assert len(table) == len(table.images) == 0
