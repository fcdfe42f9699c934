"""Conversations spliced into one rendering of their shape equal full renderings, or are rendered in full."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer

from alignkit.data.chat import CHATML, Chat
from alignkit.data.layouts import Scored
from alignkit.data.tokens import load_tokenizer
from alignkit.errors import InputError

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
            jobs = {
                "answer": lambda chat=chat: chat.answer_job(messages, last),
                "conversation": lambda chat=chat: chat.conversation_job([*messages, *last]),
                "prompt": lambda chat=chat: chat.prompt_job(messages),
            }
            found.append(chat.render([jobs[kind]() for _ in range(20)])[-1])  # the first 16 are rendered in full
        assert isinstance(found[0], Scored) and found[0] == found[1]
    assert full.looks_at_contents and not spliced.looks_at_contents


def test_a_template_that_looks_at_contents_is_said(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chat = chat_of(tokenizer, CHATML.replace("message['content']", "message['content'] | trim"), tmp_path)
    with caplog.at_level(logging.INFO):
        assert chat.prompt([{"role": "user", "content": " a "}]).startswith("<|im_start|>user\na<|im_end|>")
    assert "the chat template looks at contents: rendered in full for each user" in caplog.text
    assert chat.looks_at_contents


SLY = "{% if 'secret' in (messages | tojson) %}!{% endif %}" + CHATML  # json.dumps looks where nobody notices


def asked(chat: Chat, *contents: str) -> list[Scored | InputError]:
    return chat.render([chat.prompt_job([{"role": "user", "content": content}]) for content in contents])


def test_a_look_that_went_unnoticed_is_found_on_the_sample(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chat = chat_of(tokenizer, SLY, tmp_path)
    plain, secret = asked(chat, "a", "a secret")
    assert isinstance(plain, Scored) and isinstance(secret, Scored)
    assert not plain.text.startswith("!") and secret.text.startswith("!")
    assert "does not write every content as it is: rendered in full from here on" in caplog.text


def test_a_look_that_is_found_too_late_stops(tokenizer: Any, tmp_path: Path) -> None:
    chat = chat_of(tokenizer, SLY, tmp_path)
    asked(chat, *["a"] * 20)
    with pytest.raises(InputError, match="so that earlier rows may be wrong; give another with --chat-template"):
        asked(chat, *["secret"] * 512)
