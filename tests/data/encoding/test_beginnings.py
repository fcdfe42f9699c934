"""An answer has the ids that stand behind its prompt in the whole text, whatever a tokenizer does at a beginning."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import pytest
from made_tokenizers import KINDS, made_tokenizer

from alignkit.data.chat.chat import Chat
from alignkit.data.prepared.tokens import prepare
from alignkit.data.reading.rows import Row, to_row
from alignkit.units import Chosen, Pairs

TURN = "{{ '<|' + m['role'] + '|>' }}"
TEMPLATES = {
    # TinyLlama's: the border is behind a line's end.
    "line": "{% for m in messages %}" + TURN + "\n{{ m['content'] + eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    # Llama 2's: the answer begins with a space of the template's.
    "space": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] + eos_token }}{% endif %}{% endfor %}",
    # The border is behind a special token.
    "special": "{% for m in messages %}" + TURN + "{{ m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
}
ANSWERS = (
    "River 0.",
    "return x",
    " The Rhine",
    "    return the river",
    "\nThe Rhine",
    "* The Rhine\n* The Elbe\n",
    "\u4e2d\u6587 \U0001f600 \xe9",
    "a\u2581b",
    "0",
)


@cache
def chat_of(kind: str, border: str) -> Chat:
    return Chat(made_tokenizer(kind, TEMPLATES[border]))


def row(number: int, answer: str, other: str = "Amen.") -> Row:
    question = [{"role": "user", "content": "Name a river"}]
    if number % 2:  # several turns
        question = [*question, {"role": "assistant", "content": "The Elbe"}, {"role": "user", "content": "ok?"}]
    content = {"id": f"r{number}", "prompt": question, "chosen": answer, "rejected": other}
    return to_row(content, where="here")


def whole_ids(chat: Chat, one: Row, answer: str) -> list[int]:
    """The reference: what the tokenizer makes of prompt and answer as one text."""
    text = chat.prompt(one.prompt) + chat.answer(one.prompt, [{"role": "assistant", "content": answer}]).text
    return chat.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("kind", "border"),
    [*product(KINDS, ["line"]), *product(["prepend", "always", "first", "rstrip"], ["space", "special"])],
)
def test_prompt_and_answer_are_the_whole_text(kind: str, border: str) -> None:
    chat = chat_of(kind, border)
    rows = [row(number, answer) for number, answer in enumerate(ANSWERS)]
    prepared = prepare(rows, chat, unit=Pairs(), max_length=500, whole_answer=True)
    different = 0
    for one, tree in zip(rows, prepared.trees, strict=True):
        assert tree.prompt.ids.tolist() == chat.prompt_ids(one.prompt)
        for completion, answer in zip(tree.completions, (one.chosen, one.rejected), strict=True):
            assert answer is not None
            found, whole = [*tree.prompt.ids, *completion.ids], whole_ids(chat, one, answer[0]["content"])
            assert chat.tokenizer.decode(found) == chat.tokenizer.decode(whole)
            different += found != whole
            assert completion.ids.tolist() == chat.answer_ids(one.prompt, answer)
            end = completion.ids.tolist().index(chat.turn_end_id)
            assert completion.scored.tolist() == [n <= end for n in range(len(completion.ids))]
            content = answer[0]["content"]
            if kind not in ("unigram", "stripping", "rstrip"):  # which do not keep every letter
                said = chat.said(completion.ids[:end].tolist())
                content = content if "byte" in kind else content.replace("\u2581", " ")
                if kind == "always" and border == "special":  # one space there is as good as none
                    said, content = said.lstrip(" "), content.lstrip(" ")
                assert said == content
    # These have tokens "\nR" and "\n*", which lie across the border of two rows.
    merges = border == "line" and kind in ("prepend", "always", "first", "never")
    assert different == prepared.num_tokenized_otherwise == (2 if merges else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_turn_of_a_conversation_is_scored_from_its_first_letter_to_its_end_token(kind: str) -> None:
    chat = chat_of(kind, "line")
    contents = ["Name a river", "  The Rhine", "ok?", "River 0."]
    roles = ["user", "assistant"] * 2
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    rows = [to_row({"messages": messages}, where="here")]
    (tree,) = prepare(rows, chat, unit=Chosen(), max_length=500, train_on="all-assistant").trees
    (whole,) = tree.completions
    text = chat.renderer.render([chat.whole_conversation(messages)])[0].text  # type: ignore[union-attr]
    assert whole.ids.tolist() == chat.tokenizer(text, add_special_tokens=False)["input_ids"][: len(whole.ids)]
    scored = chat.tokenizer.decode(whole.ids[whole.scored].tolist())
    rest = chat.tokenizer.decode(whole.ids[~whole.scored].tolist())
    assert scored.count("</s>") == 2 and "Rhine</s>" in scored and "iver 0.</s>" in scored
    assert "Rhine" not in rest and "<|assistant|>" in rest and "ok?" in rest


@pytest.mark.parametrize("kind", KINDS)
def test_what_looks_like_a_special_token_is_text_behind_a_prompt_too(kind: str) -> None:
    chat = chat_of(kind, "line")
    rows = [row(0, "The </s> Rhine"), row(2, "</s>")]
    for tree in prepare(rows, chat, unit=Chosen(), max_length=500).trees:
        (completion,) = tree.completions
        assert completion.ids.tolist().count(chat.turn_end_id) == 1
        assert completion.ids[-1] == chat.turn_end_id and completion.scored.all()
        if kind not in ("stripping", "rstrip"):  # of these the whole text has a space behind the special token
            assert chat.tokenizer.convert_ids_to_tokens(int(completion.ids[0]))[0] not in "\u2581\u0120"


@pytest.mark.parametrize("kind", ["prepend", "always", "first", "prefixed-byte-level", "unigram"])
def test_an_answer_does_not_begin_with_a_space_that_it_has_not(kind: str) -> None:
    chat = chat_of(kind, "line")
    (tree,) = prepare([row(0, "River 0.")], chat, unit=Chosen(), max_length=500).trees
    first = chat.tokenizer.convert_ids_to_tokens(int(tree.completions[0].ids[0]))
    assert first[0] not in "\u2581\u0120"
    apart = chat.tokenizer("River 0.", add_special_tokens=False)["input_ids"]
    assert chat.tokenizer.convert_ids_to_tokens(apart[0])[0] in "\u2581\u0120"  # the fault that this is about


@pytest.mark.parametrize("kind", ["prepend", "byte-level"])
def test_rows_of_which_none_is_left_to_tokenize_are_skipped(kind: str) -> None:
    chat = chat_of(kind, next(iter(TEMPLATES)))
    given: dict[str, Any] = {"unit": Pairs(), "max_length": 60, "max_skipped": 1.0, "is_part": True}
    assert prepare([row(0, "")], chat, **given).skipped == {"r0": "empty chosen answer"}
    long = to_row({"id": "long", "prompt": "The river " * 60, "chosen": "Rhine", "rejected": "Elbe"}, where="here")
    found = prepare([row(0, "Rhine"), long], chat, truncation="cut-old-turns", **given)
    assert [one.id for one in found.rows] == ["r0"] and list(found.skipped) == ["long"]
