"""What a template supplies before an answer is never scored; thoughts of the row are, behind a sampler's prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import SPECIAL, tiny_tokenizer

from alignkit.data.chat.chat import Chat
from alignkit.data.prepared.tokens import prepare
from alignkit.data.reading.rows import to_row
from alignkit.errors import InputError
from alignkit.pretrained.read import load_tokenizer
from alignkit.units import Chosen, Pairs, Samples

USER = {"role": "user", "content": "2 + 3?"}
TURN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}ANSWER{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\nOPENING{% endif %}"
)
"""A chat template; ANSWER is how it writes an answer, OPENING what it puts at a prompt's end."""
QWEN3 = (
    "{% set c = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% set t = m.reasoning_content or (m.content.split('</think>')[0].split('<think>')[-1].strip('\n') "
    "if '</think>' in m.content else '') %}"
    "{% if loop.last %}<think>\n{{ t }}\n</think>\n\n{% endif %}{{ c }}"
)
R1 = "{{ m.content.split('</think>')[-1] }}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder)
    return load_tokenizer(folder)


def chat_of(tokenizer: Any, folder: Path, answer: str, opening: str = "", **values: object) -> Chat:
    file = folder / "t.jinja"
    file.write_text(TURN.replace("ANSWER", answer).replace("OPENING", opening), encoding="utf-8")
    return Chat(tokenizer, template=str(file), template_kwargs=values)


def said(content: str, **fields: object) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def split(chat: Chat, *turns: dict[str, Any], whole: bool = False) -> tuple[str, list[str]]:
    """What is not scored behind the prompt, in one, and what is."""
    conversation = chat.whole_conversation(turns) if whole else chat.answer_conversation(turns[:-1], turns[-1:])
    (found,) = chat.render([conversation])
    if isinstance(found, InputError):
        raise found
    scored = [found.text[start:end] for start, end in found.spans]
    unscored, at = "", 0
    for start, end in found.spans:
        unscored, at = unscored + found.text[at:start], end
    return unscored, scored


@pytest.mark.parametrize(
    ("answer", "content", "unscored", "scored"),
    [
        # Qwen3's empty block, and thoughts that the row holds in each way of writing them.
        (QWEN3, "5", "<think>\n\n</think>\n\n", "5<|im_end|>"),
        (QWEN3, "<think>\nwhy\n</think>\n\n5", "", "<think>\nwhy\n</think>\n\n5<|im_end|>"),
        (QWEN3, "why</think>5", "", "<think>\nwhy\n</think>\n\n5<|im_end|>"),
        (QWEN3, "<think>\n\n</think>\n\n5", "", "<think>\n\n</think>\n\n5<|im_end|>"),  # the row's own
        # Any other text, in a template that is spliced, and in one that looks at contents.
        ("Answer:\n{{ m.content }}", "5", "Answer:\n", "5<|im_end|>"),
        ("Answer:\n{{ m.content }}", "Answer:\n5", "Answer:\n", "Answer:\n5<|im_end|>"),
        ("Answer:\n{{ m.content | trim }}", " 5 ", "Answer:\n", "5<|im_end|>"),
        ("<b>\n{{ m.content }}\n</b>", "5", "<b>\n", "5\n</b><|im_end|>"),  # what follows must be written to end
        # A space is part of the answer's first token, which the model must write.
        (" {{ m.content }}", "5", "", " 5<|im_end|>"),
        ("Answer: {{ m.content }}", "5", "Answer:", " 5<|im_end|>"),
    ],
)
def test_what_the_template_supplies_before_an_answer_is_not_scored(
    tokenizer: Any, tmp_path: Path, answer: str, content: str, unscored: str, scored: str
) -> None:
    assert split(chat_of(tokenizer, tmp_path, answer), USER, said(content)) == (unscored, [scored])


def test_splices_leave_out_what_is_supplied_too(tokenizer: Any, tmp_path: Path) -> None:
    chat = chat_of(tokenizer, tmp_path, "Answer:\n{{ m.content }}")
    conversations = [chat.answer_conversation([USER], [said(str(n))]) for n in range(40)]  # some behind the sample
    rendered = chat.renderer.render_many(conversations, to_the_end=True)
    assert not chat.looks_at_contents
    for number, text in enumerate(rendered.text_of.tolist()):
        own = rendered.texts.scored(text)
        assert own.text == f"Answer:\n{number}<|im_end|>" and own.spans == ((8, len(own.text)),)


def test_each_turn_leaves_out_what_was_supplied_to_it(tokenizer: Any, tmp_path: Path) -> None:
    talk = (USER, said("5"), {"role": "user", "content": "And 4 + 4?"}, said("8"))
    unscored, scored = split(chat_of(tokenizer, tmp_path, QWEN3), *talk, whole=True)
    assert scored == ["5<|im_end|>", "8<|im_end|>"]
    assert unscored.count("<think>") == 1 and unscored.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    _, scored = split(chat_of(tokenizer, tmp_path, "Answer:\n{{ m.content }}"), *talk, whole=True)
    assert scored == ["5<|im_end|>", "8<|im_end|>"]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking", "thought", "thoughts"])
def test_thoughts_beside_a_content_reach_the_template_under_its_own_name(
    tokenizer: Any, tmp_path: Path, name: str
) -> None:
    answer = "{% if m.NAME %}<think>{{ m.NAME }}</think>{% else %}<think></think>{% endif %}{{ m.content }}"
    chat = chat_of(tokenizer, tmp_path, answer.replace("NAME", name))
    thought = said("5", reasoning_content="2 and 3 <|im_end|>")
    assert split(chat, USER, thought) == ("", ["<think>2 and 3 <|im_end|></think>5<|im_end|>"])
    assert split(chat, USER, said("5")) == ("<think></think>", ["5<|im_end|>"])
    ids = chat.encoder.ids(chat.answer([USER], [thought])).tolist()
    assert ids.count(chat.turn_end_id) == 1 and ids[-2] == chat.turn_end_id  # the one that was thought is text


def test_thoughts_that_the_template_does_not_know_are_refused_by_name(tokenizer: Any, tmp_path: Path) -> None:
    chat = chat_of(tokenizer, tmp_path, "{{ m.content }}")
    with pytest.raises(
        InputError,
        match=r"thoughts beside its content \(reasoning_content\), which .* does not render"
        r".*--ignore-fields message.reasoning_content,reasoning_content ",
    ):
        split(chat, USER, said("5", reasoning_content="why"))
    with pytest.raises(InputError, match="reasoning_content"):
        split(chat, USER, said("5", reasoning_content="why"), USER, said("6"))


@pytest.mark.parametrize(
    ("opening", "content", "scored"),
    [
        ("<think>\n", "<think>\nwhy\n</think>\n\n5", "why\n</think>\n\n5<|im_end|>"),
        ("<think>\n", "\n<think>why</think>5", "why</think>5<|im_end|>"),
        ("<think>\n", "why\n</think>\n\n5", "why\n</think>\n\n5<|im_end|>"),  # the answer only closes them
        ("<think>", "<think>\nwhy</think>5", "\nwhy</think>5<|im_end|>"),
        ("[THINK]", "[THINK]why[/THINK]5", "why[/THINK]5<|im_end|>"),
    ],
)
def test_an_answer_goes_on_from_thoughts_that_the_prompt_opens(
    tokenizer: Any, tmp_path: Path, opening: str, content: str, scored: str
) -> None:
    """DeepSeek-R1's kind: its own rendering of a finished answer has neither the opening nor the thoughts."""
    chat = chat_of(tokenizer, tmp_path, R1.replace("</think>", opening.strip()[0] + "/" + opening.strip()[1:]), opening)
    assert split(chat, USER, said(content)) == ("", [scored])
    prompt = chat.prompt([USER])
    assert prompt.endswith(opening)
    unscored, own = split(chat, USER, said(content), whole=True)
    assert (unscored, own) == (prompt, [scored])
    history = (USER, said(content), {"role": "user", "content": "Sure?"})
    assert "why" not in chat.prompt(history)
    assert split(chat, *history, said(content)) == ("", [scored])
    with pytest.raises(InputError, match="use --train-on last"):
        split(chat, *history, said(content), whole=True)


def test_answers_without_thoughts_that_the_prompt_opens_are_counted_by_name(tokenizer: Any, tmp_path: Path) -> None:
    chat = chat_of(tokenizer, tmp_path, R1, "<think>\n")
    rows = [
        to_row({"id": f"r{n}", "prompt": "2 + 3?", "chosen": c, "rejected": "why</think>6"}, where="x")
        for n, c in enumerate(["<think>why</think>5", "5"])
    ]
    for unit in (Chosen(), Pairs()):
        found = prepare(rows, chat, unit=unit, max_length=500, max_skipped=0.5)
        assert [row.id for row in found.rows] == ["r0"]
        assert "no thoughts before an answer" in found.skipped["r1"] and "'</think>'" in found.skipped["r1"]
        with pytest.raises(InputError, match=r"1 of 2 rows .* cannot be used.*no thoughts before an answer.*\(r1\)"):
            prepare(rows, chat, unit=unit, max_length=500)
    talk = to_row({"id": "t", "messages": [USER, said("5")]}, where="x")
    assert "no thoughts" in prepare([rows[0], talk], chat, unit=Chosen(), max_length=500, max_skipped=1.0).skipped["t"]


def test_a_reference_without_thoughts_is_measured(tokenizer: Any, tmp_path: Path) -> None:
    """What is sampled needs no answer; its length is that of text and end token."""
    chat = chat_of(tokenizer, tmp_path, R1, "<think>\n")
    row = to_row({"id": "a", "prompt": "2 + 3?", "reference": "five"}, where="x")
    (tree,) = prepare([row], chat, unit=Samples(), max_length=500).trees
    assert tree.reference_length == 5
    assert tokenizer.decode(chat.answer_ids([USER], [said("cut off")])) == "cut off<|im_end|>"
    assert chat.said(tokenizer.encode(" cut off")) == " cut off"
    assert chat.turn_end_id == SPECIAL.index("<|im_end|>") + 256 and chat.turn_end_id in chat.end_ids


def test_a_prompt_that_opens_thoughts_as_finished_answers_have_them(tokenizer: Any, tmp_path: Path) -> None:
    """Qwen3's thinking models: the opening is in the prompt, so that an answer's own is not scored."""
    chat = chat_of(tokenizer, tmp_path, QWEN3, "<think>\n")
    assert split(chat, USER, said("<think>\nwhy\n</think>\n\n5")) == ("", ["why\n</think>\n\n5<|im_end|>"])
    assert split(chat, USER, said("5")) == ("\n</think>\n\n", ["5<|im_end|>"])


def test_thoughts_that_the_template_cuts_from_a_finished_answer_go_on_from_the_prompt(
    tokenizer: Any, tmp_path: Path
) -> None:
    """DeepSeek-R1-0528's kind: the model opens its thoughts itself."""
    chat = chat_of(tokenizer, tmp_path, R1)
    thought = said("<think>\nwhy\n</think>\n\n5")
    assert split(chat, USER, thought) == ("", ["<think>\nwhy\n</think>\n\n5<|im_end|>"])
    assert split(chat, USER, said("5")) == ("", ["5<|im_end|>"])
    assert split(chat, USER, thought, USER, thought) == ("", ["<think>\nwhy\n</think>\n\n5<|im_end|>"])
    assert split(chat, USER, thought, whole=True) == (chat.prompt([USER]), ["<think>\nwhy\n</think>\n\n5<|im_end|>"])
    with pytest.raises(InputError, match="use --train-on last"):
        split(chat, USER, thought, USER, thought, whole=True)
    shortens = chat_of(tokenizer, tmp_path, "{{ m.content.split('So: ')[-1] }}")  # what is no thought is not restored
    with pytest.raises(InputError, match="changes the answer's text"):
        split(shortens, USER, said("Hm. So: 5"))


def test_a_prompt_that_opens_or_closes_thoughts_by_a_value(tokenizer: Any, tmp_path: Path) -> None:
    """DeepSeek-V3.1's kind: finished answers stand behind </think>, cut from their thoughts."""
    opening = "{% if thinking %}<think>{% else %}</think>{% endif %}"
    thought = said("<think>why</think>5")
    chat = chat_of(tokenizer, tmp_path, "</think>" + R1, opening, thinking=True)
    assert split(chat, USER, thought) == ("", ["why</think>5<|im_end|>"])
    with pytest.raises(InputError, match="no thoughts before an answer"):
        split(chat, USER, said("5"))
    chat = chat_of(tokenizer, tmp_path, "</think>" + R1, opening)
    assert split(chat, USER, said("5")) == ("", ["5<|im_end|>"])
    with pytest.raises(InputError, match="changes the answer's text"):
        split(chat, USER, thought)


def test_thoughts_where_the_prompt_says_that_there_are_none(tokenizer: Any, tmp_path: Path) -> None:
    empty = "<think>\n\n</think>\n\n"
    chat = chat_of(
        tokenizer, tmp_path, QWEN3, "{% if enable_thinking is false %}" + empty + "{% endif %}", enable_thinking=False
    )
    assert split(chat, USER, said("5")) == ("", ["5<|im_end|>"])
    with pytest.raises(InputError, match=r"goes on with 'why.* where the prompt has '.n</think>"):
        split(chat, USER, said("<think>\nwhy\n</think>\n\n5"))


def test_values_of_a_row_reach_the_template_in_prompts_and_answers(tokenizer: Any, tmp_path: Path) -> None:
    empty = "<think>\n\n</think>\n\n"
    opening = "{% if enable_thinking is defined and enable_thinking is false %}" + empty + "{% endif %}"
    chat = chat_of(tokenizer, tmp_path, QWEN3, opening)
    base = {"messages": [USER, said("5")]}
    off = to_row({**base, "enable_thinking": False}, where="x")
    also = to_row({**base, "chat_template_kwargs": '{"enable_thinking": false, "x": null}'}, where="x")
    on = to_row({**base, "enable_thinking": True}, where="x")
    plain = to_row({**base, "enable_thinking": None, "chat_template_kwargs": {"x": None}}, where="x")
    assert plain.prompt == (USER,) and also == to_row(dict(also.fields), where="x")
    for row, ends in ((off, True), (also, True), (on, False), (plain, False)):
        prompt = tokenizer.decode(chat.prompt_ids(row.prompt))
        assert prompt.endswith(empty) == ends  # what a sampler meets
        (tree,) = prepare([row], chat, unit=Chosen(), max_length=500, train_on="last").trees
        assert tree.prompt.ids.tolist() == chat.prompt_ids(row.prompt)
        completion = tree.completions[0]
        assert tokenizer.decode(completion.ids[completion.scored].tolist()) == "5<|im_end|>"
        assert tokenizer.decode(completion.ids.tolist()) == ("" if ends else empty) + "5<|im_end|>"
        (whole,) = prepare([row], chat, unit=Chosen(), max_length=500).trees
        scored = whole.completions[0]
        assert tokenizer.decode(scored.ids[scored.scored].tolist()) == "5<|im_end|>"
    with_system = Chat(tokenizer, template=str(tmp_path / "t.jinja"), system="Be brief.")
    assert with_system.prompt(off.prompt).endswith(empty)


@pytest.mark.parametrize(
    ("fields", "said_"),
    [
        ({"enable_thinkin": True}, "never reads 'enable_thinkin' .*; did you mean 'enable_thinking'"),
        ({"today": "2026-01-31"}, "'?today"),
    ],
)
def test_a_value_of_a_row_that_the_template_never_reads_is_refused(
    tokenizer: Any, tmp_path: Path, fields: dict[str, Any], said_: str
) -> None:
    chat = chat_of(
        tokenizer, tmp_path, QWEN3, "{% if enable_thinking %}{% endif %}{{ strftime_now('%Y') }}", today="2026-01-01"
    )
    row = to_row({"id": "r", "messages": [USER, said("5")], "chat_template_kwargs": fields}, where="x")
    with pytest.raises(InputError, match=f"^row r: a value for the template in the row: .*{said_}"):
        prepare([row], chat, unit=Chosen(), max_length=500)


@pytest.mark.parametrize(
    ("fields", "said_"),
    [
        ({"enable_thinking": "false"}, "'enable_thinking' must be true or false"),
        ({"chat_template_kwargs": "{"}, "'chat_template_kwargs' is text, and no JSON"),
        ({"chat_template_kwargs": [1]}, "'chat_template_kwargs' must be an object"),
        ({"date_string": "a", "chat_template_kwargs": {"date_string": "b"}}, "'date_string' differs"),
    ],
)
def test_a_value_of_a_row_that_cannot_be_read_is_refused(fields: dict[str, Any], said_: str) -> None:
    with pytest.raises(InputError, match=f"^x: {said_}"):
        to_row({"prompt": "a", "chosen": "b", **fields}, where="x")
