"""Images on the torch engine: real embeddings in the prompt, one size together, features kept, blocks shared."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch_workloads import own_model  # noqa: E402

from batchpilot import Limits  # noqa: E402
from batchpilot.engines.torch import LiveEngine, ModelRunner, TorchEngineConfig  # noqa: E402
from batchpilot.engines.torch.vision import VisionEncoder  # noqa: E402
from batchpilot.engines.torch.vision.shown import Shown  # noqa: E402
from batchpilot.workloads.prompt_images import PromptImage, with_image_ids  # noqa: E402

ROOM = Limits(8, token_budget=512)


@pytest.fixture(scope="module")
def runner():
    torch.set_num_threads(1)
    return ModelRunner("tiny-llama", kv_capacity_tokens=8192, vision=True)


def picture(kind, start=0, side_px=224):
    pixels = np.random.default_rng(kind).integers(0, 256, 3 * side_px * side_px, dtype=np.uint8)
    return PromptImage.of(start, side_px, pixels.tobytes())


def prompt_with(image, before=(), after=(5, 6, 7)):
    return np.array([*before, *[0] * image.tokens, *after])


def answers(engine, numbers):
    """Tokens of each request, run to the end."""
    said = {number: [] for number in numbers}
    while engine.in_flight:
        for number, token, _, _ in engine.step().events:
            if token is not None:
                said[number].append(token)
    return [said[number] for number in numbers]


def engine_of(runner, **config):
    engine = LiveEngine(TorchEngineConfig(**config), runner, room=16)
    engine.set_limits(ROOM)
    return engine


def own_answer(runner, prompt, images, count):
    """What the model itself says, its attention its own, from the embeddings as they are."""
    model = own_model()
    embedded = model.get_input_embeddings()(torch.from_numpy(prompt))
    for image in images:
        [features] = runner.vision.embeddings([Shown(image, 0, 0, image.tokens)])
        embedded[image.start : image.end] = features
    said = []
    with torch.inference_mode():
        for _ in range(count):
            token = int(model(inputs_embeds=embedded[None]).logits[0, -1].argmax())
            said.append(token)
            embedded = torch.cat([embedded, model.get_input_embeddings()(torch.tensor([token]))])
    return said


@pytest.mark.parametrize("budget", [64, 300, 4096])
@pytest.mark.parametrize("side_px", [224, 336, 448])
def test_an_answer_about_an_image_is_the_models_own_however_its_prompt_is_cut(runner, budget, side_px):
    image = picture(1, start=3, side_px=side_px)
    prompt = prompt_with(image, before=(1, 2, 3))
    engine = engine_of(runner)
    engine.set_limits(Limits(8, token_budget=budget))
    [said] = answers(engine, [engine.submit(prompt, 6, images=[image])])
    with torch.inference_mode():
        assert said == own_answer(runner, prompt, [image], 6)


def test_two_images_in_one_prompt_stand_where_they_stand(runner):
    first = picture(1, start=2)
    second = picture(2, start=2 + 256 + 4, side_px=336)
    prompt = np.array([1, 2, *[0] * 256, 3, 4, 5, 6, *[0] * 576, 7])
    engine = engine_of(runner)
    [said] = answers(engine, [engine.submit(prompt, 5, images=[first, second])])
    with torch.inference_mode():
        assert said == own_answer(runner, prompt, [first, second], 5)


def test_another_image_is_another_answer_and_text_beside_it_is_what_it_was(runner):
    text = np.arange(40)
    engine = engine_of(runner)
    [alone] = answers(engine, [engine.submit(text, 8)])
    numbers = [engine.submit(prompt_with(picture(kind)), 8, images=[picture(kind)]) for kind in (1, 2)]
    first, second, beside = answers(engine, [*numbers, engine.submit(text, 8)])
    assert first != second
    assert beside == alone


def test_images_of_one_size_are_encoded_in_one_pass_and_kept(runner):
    engine, tower = engine_of(runner), runner.vision
    engine.set_limits(Limits(8, token_budget=4096))
    passes, images, hits = tower.passes, tower.images, tower.hits
    shown = [picture(kind) for kind in (11, 12, 13)]
    answers(engine, [engine.submit(prompt_with(image), 2, images=[image]) for image in shown])
    assert (tower.passes, tower.images, tower.hits) == (passes + 1, images + 3, hits)
    answers(engine, [engine.submit(prompt_with(image), 2, images=[image]) for image in shown])
    assert (tower.passes, tower.images, tower.hits) == (passes + 1, images + 6, hits + 3)
    window = engine.close_window()
    assert (window.images, window.image_hits) == (6, 3)
    assert 0.0 < window.encode_ms < window.busy_ms


def test_a_prompt_that_begins_with_the_same_image_finds_its_blocks_and_needs_no_features(runner):
    engine, image = engine_of(runner, prefix_cache=True), picture(21)
    first = engine.submit(prompt_with(image), 6, images=[image])
    [said] = answers(engine, [first])
    images = runner.vision.images
    again = engine.submit(prompt_with(image), 6, images=[image])
    assert engine.cached_tokens(again) == 256
    assert answers(engine, [again]) == [said]
    assert runner.vision.images == images
    other = picture(22)
    number = engine.submit(prompt_with(other), 6, images=[other])
    assert engine.cached_tokens(number) == 0, "another image shares nothing"
    assert answers(engine, [number]) != [said]


def test_token_ids_cannot_be_sent_in_place_of_an_image(runner):
    engine, image = engine_of(runner, prefix_cache=True), picture(31)
    answers(engine, [engine.submit(prompt_with(image), 2, images=[image])])
    assert engine.cached_tokens(engine.submit(prompt_with(image), 2)) == 0


def test_images_that_do_not_fit_into_the_prompt_are_refused(runner):
    engine, image = engine_of(runner), picture(1, start=10)
    with pytest.raises(ValueError, match="an image of 256 tokens at token 10 does not fit into a prompt of 100"):
        engine.submit(np.zeros(100, np.int64), 2, images=[image])
    with pytest.raises(ValueError, match="does not fit"):
        with_image_ids(np.zeros(600, np.int64), [image, picture(2, start=100)], 256)
    with pytest.raises(ValueError, match=r"sides are 224, 336, 448 px"):
        PromptImage.of(0, 300, b"")
    assert engine.in_flight == 0


def test_a_model_without_a_tower_refuses_images_in_words():
    runner = ModelRunner("tiny-llama", kv_capacity_tokens=1024)
    engine, image = engine_of(runner), picture(1)
    with pytest.raises(ValueError, match="the model was loaded without vision"):
        engine.submit(prompt_with(image), 2, images=[image])


def encoder(**options):
    return VisionEncoder(16, 0.02, torch.device("cpu"), torch.float32, **options)


def parts(kinds, side_px=224):
    return [Shown(picture(kind, side_px=side_px), 0, 0, 256) for kind in kinds]


def test_no_more_features_are_kept_than_are_allowed_by_number_or_by_bytes():
    with torch.inference_mode():
        few = encoder(kept=2)
        for kind in (1, 2, 1, 3):
            few.embeddings(parts([kind]))
        assert len(few) == 2
        assert few.hits == 1
        few.embeddings(parts([1]))
        assert few.hits == 2, "the least recently used is dropped, that is 2"
        small = encoder(most_mb=2.5 * 256 * 16 * 4 / 2**20)
        small.embeddings(parts([1, 2, 3, 4]))
        assert len(small) == 2
        none = encoder(kept=0)
        none.embeddings(parts([1]))
        assert len(none) == 0


def test_images_together_are_encoded_as_each_alone_in_passes_of_a_size():
    with torch.inference_mode():
        together, alone = encoder(together=3), encoder(together=1)
        shown = [*parts([1, 2, 3, 4]), *[Shown(picture(5, side_px=336), 0, 100, 50)]]
        for one, other in zip(together.embeddings(shown), alone.embeddings(shown), strict=True):
            torch.testing.assert_close(one, other)
        assert together.passes == 2 + 1
        assert alone.passes == 5
        assert together.embeddings(shown)[-1].shape == (50, 16)
