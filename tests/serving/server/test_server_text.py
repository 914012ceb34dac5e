"""Text in and out of tokens: bytes, a model's own tokenizer, and stop strings however they are cut."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
tokenizers = pytest.importorskip("tokenizers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from batchpilot.serving.server.text import Bytes, ModelText, StopStrings, load_text  # noqa: E402

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model directory with a byte-level tokenizer trained on the spot."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<end>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox", "größer und kleiner", "the the the"], trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    settings_ = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>", "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(settings_))
    return path


def said(text, tokens):
    stream = text.stream()
    return "".join([*(stream.add(token) for token in tokens), stream.rest()])


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
def test_bytes_give_back_the_text(text):
    assert said(Bytes(), Bytes().encode(text)) == text


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.sampled_from(["the ", "quick", "größer", "日本", "🙂", " ", "fox"]), max_size=8))
def test_a_models_tokenizer_gives_back_the_text_token_by_token(folder, pieces):
    text = load_text(str(folder))
    assert isinstance(text, ModelText)
    assert said(text, text.encode("".join(pieces))) == "".join(pieces)


def test_a_chat_follows_the_models_template(folder):
    text = load_text(str(folder))
    [ids] = text.encode_chat([{"role": "user", "content": "the fox"}])
    assert said(text, ids) == "<user>the fox<assistant>"
    assert text.stop_tokens == (0,)


def test_a_template_that_refuses_is_a_mistake_of_the_request(folder):
    text = load_text(str(folder))
    text._tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ValueError, match="roles must alternate"):
        text.encode_chat([{"role": "user", "content": "x"}])


def test_a_preset_speaks_bytes():
    assert isinstance(load_text("tiny-llama"), Bytes)


def test_a_broken_tokenizer_is_told_with_its_folder(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer in .* cannot be loaded"):
        load_text(str(tmp_path))


@given(
    st.text(alphabet="abc", max_size=30),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    st.data(),
)
def test_an_answer_is_cut_before_its_first_stop_string_however_it_comes(text, stops, data):
    cut = StopStrings(stops)
    out, rest = "", text
    while rest and not cut.hit:
        size = data.draw(st.integers(1, 3))
        out, rest = out + cut.add(rest[:size]), rest[size:]
    out += cut.rest()
    if cut.hit:
        assert any(text[len(out) :].startswith(stop) for stop in stops)
        assert not any(stop in out for stop in stops)
    else:
        assert out == text
