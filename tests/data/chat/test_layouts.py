"""Conversations spliced into one rendering of their shape equal full renderings, or are rendered in full."""

from __future__ import annotations

import logging
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer

from alignkit._native import Splicer
from alignkit.data.chat.chat import CHATML, Chat
from alignkit.data.encoding.texts import TextWithSpans
from alignkit.errors import InputError
from alignkit.pretrained.read import load_tokenizer

# The same text, but by a template that looks at every content.
LOOKS = CHATML.replace("{{ message['content'] }}", "{{ message['content'] if message['content'] != '\x01' else '' }}")
PIECES = st.characters(exclude_categories=("Cs",)) | st.sampled_from(["<|im_end|>", "<|im_start|>", "\n", " ", "{{"])
CONTENTS = st.lists(PIECES, max_size=12).map("".join)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder)
    return load_tokenizer(folder)


def chat_of(tokenizer: Any, template: str, folder: Path) -> Chat:
    file = folder / "t.jinja"
    file.write_text(template, encoding="utf-8")
    return Chat(tokenizer, template=str(file))


@pytest.fixture(scope="module")
def both(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Chat, Chat]:
    """A chat that splices, its sample behind it, and one that renders in full."""
    folder = tmp_path_factory.mktemp("templates")
    return chat_of(tokenizer, CHATML, folder), chat_of(tokenizer, LOOKS, folder)


@given(st.lists(CONTENTS, min_size=1, max_size=4), CONTENTS)
def test_splices_equal_full_renderings(both: tuple[Chat, Chat], contents: list[str], answer: str) -> None:
    spliced, full = both
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": content} for n, content in enumerate(contents)]
    if len(messages) % 2 == 0:
        messages.pop()
    last = [{"role": "assistant", "content": answer}]
    for kind in ("answer", "conversation", "prompt"):
        found = []
        for chat in (spliced, full):
            conversations = {
                "answer": lambda chat=chat: chat.answer_conversation(messages, last),
                "conversation": lambda chat=chat: chat.whole_conversation([*messages, *last]),
                "prompt": lambda chat=chat: chat.prompt_conversation(messages),
            }
            found.append(
                chat.render([conversations[kind]() for _ in range(20)])[-1]
            )  # the first 16 are rendered in full
        assert isinstance(found[0], TextWithSpans) and found[0] == found[1]
    assert full.looks_at_contents and not spliced.looks_at_contents


@given(st.lists(st.tuples(CONTENTS, CONTENTS), min_size=1, max_size=5), st.booleans())
def test_many_rendered_at_once_equal_those_rendered_one_by_one(
    both: tuple[Chat, Chat], turns: list[tuple[str, str]], to_the_end: bool
) -> None:
    for chat in both:
        conversations = []
        for question, reply in turns:
            prompt, answer = [{"role": "user", "content": question}], [{"role": "assistant", "content": reply}]
            conversations += [
                chat.prompt_conversation(prompt),
                chat.answer_conversation(prompt, answer),
                chat.whole_conversation(prompt + answer),
            ]
        rendered = chat.renderer.render_many(conversations * 6, to_the_end=to_the_end)  # some behind the sample
        assert not rendered.errors
        for number, known in zip(rendered.text_of.tolist(), chat.render(conversations) * 6, strict=True):
            assert isinstance(known, TextWithSpans)
            found = rendered.texts.scored(number)
            if to_the_end and known.spans:
                end = known.spans[-1][1]
                known = TextWithSpans(known.text[:end], known.spans, tuple(p for p in known.plain if p[1] <= end))
            assert found == known
            assert rendered.texts.text(number) == known.text


def test_what_is_surely_normal_is_never_changed_by_normalization() -> None:
    """No such character changes, moves, or composes with the one before it (Unicode's composition pairs; Hangul)."""
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    splicer = Splicer([])
    number = splicer.add(["", ""], [0], [])
    offsets = np.arange(len(characters) + 1)
    *_, is_normal = splicer.splice(np.full(len(characters), number), characters, offsets)
    parts = (unicodedata.decomposition(character).split() for character in characters)
    second = {chr(int(own[1], 16)) for own in parts if len(own) == 2 and not own[0].startswith("<")}
    second |= {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    sure = {character for character, is_sure in zip(characters, is_normal, strict=True) if is_sure}
    assert set(map(chr, range(128))) <= sure and "\u4e2d" in sure and "\u201c" in sure
    assert not sure & second
    assert all(unicodedata.is_normalized("NFC", c) and unicodedata.combining(c) == 0 for c in sure)


def test_a_splicer_names_what_does_not_belong_together() -> None:
    splicer = Splicer(["<s>"])
    with pytest.raises(ValueError, match="2 literals around 0 slots"):
        splicer.add(["", ""], [], [])
    with pytest.raises(ValueError, match="span 0 begins or ends in no literal"):
        splicer.add(["a"], [], [[(0, 0), (0, 2)]])
    with pytest.raises(ValueError, match="text 0: there is no layout 3"):
        splicer.splice(np.array([3]), [], np.array([0, 0]))


def test_a_template_that_looks_at_contents_is_said(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chat = chat_of(tokenizer, CHATML.replace("message['content']", "message['content'] | trim"), tmp_path)
    with caplog.at_level(logging.INFO):
        assert chat.prompt([{"role": "user", "content": " a "}]).startswith("<|im_start|>user\na<|im_end|>")
    assert "the chat template looks at contents: rendered in full for each user" in caplog.text
    assert chat.looks_at_contents


SLY = "{% if 'secret' in (messages | tojson) %}!{% endif %}" + CHATML  # json.dumps looks where nobody notices


def asked(chat: Chat, *contents: str) -> list[TextWithSpans | InputError]:
    return chat.render([chat.prompt_conversation([{"role": "user", "content": content}]) for content in contents])


def test_a_look_that_went_unnoticed_is_found_on_the_sample(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chat = chat_of(tokenizer, SLY, tmp_path)
    plain, secret = asked(chat, "a", "a secret")
    assert isinstance(plain, TextWithSpans) and isinstance(secret, TextWithSpans)
    assert not plain.text.startswith("!") and secret.text.startswith("!")
    assert "does not write every content as it is: rendered in full from here on" in caplog.text


def test_a_look_that_is_found_too_late_stops(tokenizer: Any, tmp_path: Path) -> None:
    chat = chat_of(tokenizer, SLY, tmp_path)
    asked(chat, *["a"] * 20)
    with pytest.raises(InputError, match="so that earlier rows may be wrong; give another with --chat-template"):
        asked(chat, *["secret"] * 512)
