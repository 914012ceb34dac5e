"""Text in and out of token ids: the model's own tokenizer, or bytes for models with random weights."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from batchpilot.core.names import closest
from batchpilot.serving.server.structured import byte_guidance, tokenizer_guidance

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


class TextStream(Protocol):
    """Text of an answer as its tokens come."""

    def add(self, token: int) -> str:
        """The text that has become certain with one more token.

        Args:
            token: its id.
        """

    def rest(self) -> str:
        """What was held back; the answer is over."""


class Text(Protocol):
    """A way from text to token ids and back.

    Attributes:
        stop_tokens: tokens that end an answer.
    """

    stop_tokens: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt.

        Args:
            text: the prompt.
        """

    def encode_chat(self, messages: Sequence[dict[str, str]], mark: str = "") -> list[list[int]]:
        """Token ids of a conversation, up to where the assistant speaks.

        Args:
            messages: each with `role` and `content`.
            mark: text that stands for something else, which is left out; "" for none.

        Returns:
            Those before the first mark, between marks, and behind the last one.
        """

    def stream(self) -> TextStream:
        """For one answer."""

    def token(self, token: int) -> tuple[str, list[int] | None]:
        """A token by itself: its text, and its bytes where that is certain.

        Args:
            token: its id.
        """

    def guidance(self, vocabulary: int) -> Any:
        """The tokens as the package `llguidance` reads them.

        Args:
            vocabulary: number of token ids.

        Raises:
            MissingExtraError: the package is missing.
            ValueError: it does not know tokenizers of this kind.
        """


class Bytes:
    """A token a byte, for models whose vocabulary means nothing: ids beyond a byte are taken modulo 256."""

    stop_tokens: tuple[int, ...] = ()

    def encode(self, text: str) -> list[int]:
        """The bytes of the text in UTF-8.

        Args:
            text: the prompt.
        """
        return list(text.encode())

    def encode_chat(self, messages: Sequence[dict[str, str]], mark: str = "") -> list[list[int]]:
        """The bytes of a plain transcript.

        Args:
            messages: each with `role` and `content`.
            mark: see `Text`.
        """
        return [self.encode(piece) for piece in _split(_transcript(messages), mark)]

    def stream(self) -> TextStream:
        """Bytes to text; what is no UTF-8 becomes replacement characters."""
        return _ByteStream()

    def token(self, token: int) -> tuple[str, list[int] | None]:
        """A byte, as text where it is a character, else as OpenAI's API writes it.

        Args:
            token: its id.
        """
        byte = token & 0xFF
        return (chr(byte) if byte < 0x80 else f"bytes:\\x{byte:02x}"), [byte]

    def guidance(self, vocabulary: int) -> Any:
        """Bytes, of which 0, that no JSON holds, ends an output.

        Args:
            vocabulary: number of token ids.
        """
        return byte_guidance(vocabulary)


def _transcript(messages: Sequence[dict[str, str]]) -> str:
    return "".join(f"{m['role']}: {m['content']}\n" for m in messages) + "assistant: "


def _split(text: str, mark: str) -> list[str]:
    return text.split(mark) if mark else [text]


class _ByteStream:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        return self._decoder.decode(bytes([token & 0xFF]))

    def rest(self) -> str:
        return self._decoder.decode(b"", final=True)


class ModelText:
    """The tokenizer of a model directory.

    Args:
        tokenizer: of `transformers`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        end = tokenizer.eos_token_id
        self.stop_tokens: tuple[int, ...] = () if end is None else (int(end),)

    def encode(self, text: str) -> list[int]:
        """As the tokenizer does, its special tokens included.

        Args:
            text: the prompt.
        """
        ids: list[int] = self._tokenizer.encode(text)
        return ids

    def encode_chat(self, messages: Sequence[dict[str, str]], mark: str = "") -> list[list[int]]:
        """By the model's chat template, or as a plain transcript where it has none.

        Args:
            messages: each with `role` and `content`.
            mark: see `Text`.

        Raises:
            ValueError: the template refuses the conversation.
        """
        if self._tokenizer.chat_template is None:
            first, *rest = _split(_transcript(messages), mark)
            return [self.encode(first), *(self._encode_further(piece) for piece in rest)]
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program of the model's, and may raise anything
            raise ValueError(f"the model's chat template refuses these messages: {error}") from error
        return [self._encode_further(piece) for piece in _split(text, mark)]

    def _encode_further(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def stream(self) -> TextStream:
        """Tokens to text, holding back characters that are not complete."""
        return _TokenStream(self._tokenizer)

    def token(self, token: int) -> tuple[str, list[int] | None]:
        """A token's own text; parts of characters have no bytes that a tokenizer would tell.

        Args:
            token: its id.
        """
        text: str = self._tokenizer.decode([token])
        return text, None if "\ufffd" in text else list(text.encode())

    def guidance(self, vocabulary: int) -> Any:
        """The model's tokenizer.

        Args:
            vocabulary: number of token ids.
        """
        return tokenizer_guidance(self._tokenizer, vocabulary, self.stop_tokens)


class _TokenStream:
    """Decodes new tokens together with the last certain ones, since a token's text depends on the one before."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._said: list[int] = []
        self._held: list[int] = []

    def add(self, token: int) -> str:
        self._held.append(token)
        before, after = self._decode(self._said), self._decode(self._said + self._held)
        if after.endswith("\ufffd") or len(after) <= len(before):
            return ""
        self._said, self._held = self._held, []
        return after[len(before) :]

    def rest(self) -> str:
        before = self._decode(self._said)
        return self._decode(self._said + self._held)[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


def load_text(model: str) -> Text:
    """The tokenizer of a model directory or package; bytes where there is none.

    Args:
        model: a preset or a folder.

    Raises:
        ValueError: the tokenizer cannot be loaded, or the model's package is missing.
    """
    # Not above: the process for HTTP, which is sent its tokenizer, has no use for engines.
    from batchpilot.engines.packaged import PACKAGED

    if model in PACKAGED:
        from transformers import AutoTokenizer

        file = PACKAGED[model].path()
        return ModelText(AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True))
    folder = Path(model)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return Bytes()
    from transformers import AutoTokenizer

    try:
        return ModelText(AutoTokenizer.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"the tokenizer in {folder} cannot be loaded: {error}") from error


class StopStrings:
    """Cuts an answer before the first stop string in it, holding back what may be the beginning of one.

    Args:
        stops: strings, none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def add(self, text: str) -> str:
        """The text that is certain not to be part of a stop string.

        Args:
            text: what came.
        """
        if not self._stops or self.hit:
            return "" if self.hit else text
        self._held += text
        places = [place for place in (self._held.find(stop) for stop in self._stops) if place >= 0]
        if places:
            self.hit = True
            return self._take(min(places))
        longest = max(len(stop) for stop in self._stops) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return self._take(len(self._held) - length)
        return self._take(len(self._held))

    def rest(self) -> str:
        """What was held back; the answer is over."""
        return "" if self.hit else self._take(len(self._held))

    def _take(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        return text


def served_name(wanted: str, served: str) -> str | None:
    """Why a model's name is not the one that is served, None if it is.

    Args:
        wanted: as asked for.
        served: what is served.
    """
    if wanted == served:
        return None
    near = ", did you mean it?" if closest(wanted, [served]) else ""
    return f"the model {wanted!r} is not served here; {served!r} is{near}"
