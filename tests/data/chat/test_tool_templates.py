"""Conversations with tools: texts and masks equal transformers' with generation marks, or the row is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import tool_templates as known
from marked_templates import FOLDER, marked
from tiny_models import tiny_tokenizer
from tool_templates import CONVERSATIONS, DONE, STYLES, TOOLS, USER, call, calls, result

from alignkit.data.chat.chat import CHATML, Chat
from alignkit.data.encoding.texts import TextWithSpans
from alignkit.data.prepared.tokens import prepare, without_oldest_turn
from alignkit.data.reading.read import read_rows
from alignkit.data.reading.rows import Row, to_row
from alignkit.errors import InputError
from alignkit.pretrained.read import load_tokenizer
from alignkit.units import Chosen, Pairs, Samples


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Any]:
    """Loaded tokenizers, by their special tokens."""
    made = {}
    for number, marks in enumerate({marks for _, marks in (*STYLES.values(), *REAL.values())} | {CHATML_MARKS}):
        folder = tmp_path_factory.mktemp(f"tokenizer{number}")
        tiny_tokenizer(folder)
        tokenizer = load_tokenizer(folder)
        tokenizer.add_special_tokens(
            {"bos_token": marks[0], "eos_token": marks[1], "additional_special_tokens": list(marks[2:])}
        )
        made[marks] = tokenizer
    return made


CHATML_MARKS = ("<|endoftext|>", "<|im_end|>", "<|im_start|>")
_LLAMA = STYLES["headers"][1]
_CALL_BEGINS = '{{- \'<tool_call>\\n{"name": "\' }}'
_QWEN_END = (
    "        {{- '<|im_end|>\\n' }}\n    {%- elif message.role == \"tool\" %}",
    "        {{- '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}\n    {%- elif message.role == \"tool\" %}",
)
_QWEN25_TEXT = "        {%- if message.content %}\n            {{- '\\n' + message.content }}\n        {%- endif %}"
_QWEN25_LINE_END = "{%- if message.content or not loop.first %}{{- '\\n' }}{%- endif %}"
REAL: dict[str, tuple[tuple[tuple[str, str], ...], tuple[str, ...]]] = {
    "qwen2.5-instruct": (
        (
            ("{{- '<|im_start|>' + message.role }}\n", "{{- '<|im_start|>' + message.role + '\\n' }}\n"),
            (_QWEN25_TEXT, "{%- generation %}{{- message.content }}"),
            ('{{- \'\\n<tool_call>\\n{"name": "\' }}', _QWEN25_LINE_END + _CALL_BEGINS),
            _QWEN_END,
        ),
        CHATML_MARKS,
    ),
    "qwen3-instruct-2507": (
        (
            (
                "message.role + '\\n' + content }}\n        {%- if message.tool_calls %}",
                "message.role + '\\n' }}{% generation %}{{- content }}{%- if message.tool_calls %}",
            ),
            _QWEN_END,
        ),
        CHATML_MARKS,
    ),
    "llama-3.1-instruct": (
        (
            (
                "{{- '{\"name\": \"' + tool_call.name + '\", ' }}",
                "{% generation %}{{- '{\"name\": \"' + tool_call.name + '\", ' }}",
            ),
            (
                '            {{- "}" }}\n        {%- endif %}',
                '            {{- "}<|eot_id|>" }}{% endgeneration %}\n        {%- endif %}',
            ),
            ('        {%- else %}\n            {{- "<|eot_id|>" }}\n        {%- endif %}', "        {%- endif %}"),
        ),
        _LLAMA,
    ),
}
"""Swaps that mark the calls in templates of others, and their special tokens."""


def chat_of(tokenizer: Any, template: str, folder: Path) -> Chat:
    (folder / "t.jinja").write_text(template, encoding="utf-8")
    return Chat(tokenizer, template=str(folder / "t.jinja"))


def row_of(messages: list[dict[str, Any]], *, as_text: bool = True, **more: Any) -> Row:
    """A row as OpenAI writes it: arguments as text, no content beside calls where it is empty."""
    messages = copy.deepcopy(messages)
    for message in messages:
        for one in message.get("tool_calls", ()) if as_text else ():
            one["function"]["arguments"] = json.dumps(one["function"]["arguments"])
        if as_text and "tool_calls" in message:
            message["content"] = message["content"] or None
    return to_row({"messages": messages, "tools": TOOLS, **more}, where="here")


def reference(tokenizer: Any, template: str, messages: list[dict[str, Any]], *, as_text: bool) -> TextWithSpans:
    """The text, and what an assistant wrote of it, by transformers."""
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = copy.deepcopy(messages)
    for message in messages if as_text else ():
        for one in message.get("tool_calls", ()):
            one["function"]["arguments"] = json.dumps(one["function"]["arguments"], ensure_ascii=False)
    (text,), (spans,) = render_jinja_template(
        [messages],
        tools=TOOLS,
        chat_template=template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    return TextWithSpans(text, tuple((start, end) for start, end in spans))


def rendered(chat: Chat, row: Row) -> TextWithSpans | InputError:
    (text,) = chat.render([chat.whole_conversation((*row.prompt, *(row.chosen or ())))])
    return text


def is_taken(name: str, messages: list[dict[str, Any]]) -> bool:
    several = any(len(message.get("tool_calls", ())) > 1 for message in messages)
    beside = any(message["content"] and "tool_calls" in message for message in messages)
    return (name in known.SEVERAL_CALLS or not several) and (name in known.TEXT_BESIDE_CALLS or not beside)


@pytest.mark.parametrize("name", STYLES)
def test_masks_equal_transformers_with_marks_under_templates_of_four_styles(
    name: str, tokenizers: dict[tuple[str, ...], Any], tmp_path: Path
) -> None:
    template, marks = STYLES[name]
    tokenizer, chat = tokenizers[marks], chat_of(tokenizers[marks], template, tmp_path)
    for what, messages in CONVERSATIONS.items():
        for as_text in (True, False):
            found = rendered(chat, row_of(messages, as_text=as_text))
            if is_taken(name, messages):
                assert found == reference(tokenizer, template, messages, as_text=name == "tokens"), what
            else:
                assert isinstance(found, InputError), what
                assert "leaves out the text beside a tool call" in str(found) or "only one call at once" in str(found)


@pytest.mark.skipif(not FOLDER.exists(), reason="the shared real data is not here")
@pytest.mark.parametrize("name", REAL)
def test_masks_equal_transformers_with_marks_under_real_templates_that_know_tools(
    name: str, tokenizers: dict[tuple[str, ...], Any], tmp_path: Path
) -> None:
    swaps, marks = REAL[name]
    template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    with_marks = template if name.startswith("qwen3") else marked(name)
    for old, new in swaps:
        assert old in with_marks, old
        with_marks = with_marks.replace(old, new)
    style = "headers" if name.startswith("llama") else "tags"
    tokenizer, chat = tokenizers[marks], chat_of(tokenizers[marks], template, tmp_path)
    for what, messages in CONVERSATIONS.items():
        found = rendered(chat, row_of(messages))
        if is_taken(style, messages):
            assert found == reference(tokenizer, with_marks, messages, as_text=False), what
        else:
            assert isinstance(found, InputError), what


@pytest.mark.parametrize("name", STYLES)
def test_prompts_and_answers_are_the_conversation_cut_in_two(
    name: str, tokenizers: dict[tuple[str, ...], Any], tmp_path: Path
) -> None:
    template, marks = STYLES[name]
    chat = chat_of(tokenizers[marks], template, tmp_path)
    for messages in CONVERSATIONS.values():
        if is_taken(name, messages):
            row = row_of(messages)
            whole = rendered(chat, row)
            assert isinstance(whole, TextWithSpans) and row.chosen is not None
            prompt, answer = chat.prompt(row.prompt), chat.answer(row.prompt, row.chosen)
            start, end = whole.spans[-1]
            assert (whole.text[: len(prompt)], len(prompt)) == (prompt, start)
            assert prompt + answer.text == whole.text and answer.spans == ((0, end - start),)


def test_ids_that_a_template_does_not_take_are_made_anew_for_calls_and_results(
    tokenizers: dict[tuple[str, ...], Any], tmp_path: Path
) -> None:
    template, marks = STYLES["brackets"]
    chat = chat_of(tokenizers[marks], template, tmp_path)
    long = calls({**call(1, "tide"), "id": "call_of_openai_1"}, {**call(2, "depth"), "id": "call_of_openai_2"})
    answered = [{**result(1, str(n)), "tool_call_id": f"call_of_openai_{n}"} for n in (2, 1)]
    none = calls(*({"function": one["function"]} for one in long["tool_calls"]))
    for messages in (
        [USER, long, *answered, DONE],
        [USER, none, *({"role": "tool", "content": c} for c in "12"), DONE],
    ):
        found = rendered(chat, row_of(messages))
        assert isinstance(found, TextWithSpans)
        start, end = found.spans[0]
        made = json.loads(found.text[start + len("[TOOL_CALLS]") : end].removesuffix("</s>"))
        ids = {one["name"]: one["id"] for one in made}
        assert len(set(ids.values())) == 2 and all(len(id_) == 9 and id_.isalnum() for id_ in ids.values())
        for content, name in (("1", "tide"), ("2", "depth")):
            assert f'{{"content": "{content}", "call_id": "{ids[name]}"}}' in found.text


NO_CALLS = known.TAGS.replace("for call in message.tool_calls or []", "for call in []")
NO_TOOLS = known.TAGS.replace("{%- if tools %}", "{%- if false %}")
NO_RESULTS = known.TAGS.replace("message.role == 'tool' %}", "message.role == 'nobody' %}")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (CHATML, "leaves out the list of tools"),
        (NO_TOOLS, "leaves out the list of tools"),
        (NO_CALLS, "leaves out tool calls"),
        (NO_RESULTS, "leaves out a message of the role 'tool'"),
        (
            known.TAGS
            + "{% if messages | length > 2 and messages[-2].role == 'tool' %}{{ raise_exception('no') }}{% endif %}",
            "refuses this conversation, which has tools, calls of them or results: no; take such rows out",
        ),
    ],
)
def test_a_template_that_does_not_write_tools_refuses_such_rows_and_no_others(
    template: str, said: str, tokenizers: dict[tuple[str, ...], Any], tmp_path: Path
) -> None:
    chat = chat_of(tokenizers[CHATML_MARKS], template, tmp_path)
    found = rendered(chat, row_of(CONVERSATIONS["a call and its result"]))
    assert isinstance(found, InputError) and said in str(found)
    plain = to_row({"messages": [USER, DONE]}, where="here")
    assert isinstance(rendered(chat, plain), TextWithSpans)
    with pytest.raises(InputError, match=f"^row r: .*{said}"):
        prepare([row_of(CONVERSATIONS["a call and its result"], id="r")], chat, unit=Chosen(), max_length=10_000)


def tags(tokenizers: dict[tuple[str, ...], Any], folder: Path, **more: Any) -> Chat:
    (folder / "t.jinja").write_text(known.TAGS, encoding="utf-8")
    return Chat(tokenizers[CHATML_MARKS], template=str(folder / "t.jinja"), **more)


def test_tools_come_with_a_system_message_of_the_run_and_stay_where_old_turns_are_cut(
    tokenizers: dict[tuple[str, ...], Any], tmp_path: Path
) -> None:
    row = row_of([USER, calls(call(1, "tide")), result(1, "x"), DONE, {**USER, "content": "And low?"}, DONE])
    text = tags(tokenizers, tmp_path, system="Be brief.").prompt(row.prompt)
    assert text.startswith('<|im_start|>system\nBe brief.\n\nFunctions:\n{"type": "function"')
    shorter = without_oldest_turn(row)
    assert shorter is not None and [turn["content"] for turn in shorter.prompt] == ["And low?"]
    assert "Functions:" in tags(tokenizers, tmp_path).prompt(shorter.prompt) and without_oldest_turn(shorter) is None


def test_special_tokens_inside_arguments_and_tools_are_text(
    tokenizers: dict[tuple[str, ...], Any], tmp_path: Path
) -> None:
    chat = tags(tokenizers, tmp_path)
    row = row_of([USER, calls(call(1, "tide", port="a<|im_end|>b")), result(1, "<|im_start|>"), DONE])
    completion = prepare([row], chat, unit=Chosen(), max_length=10_000).trees[0].completions[0]
    ends, starts = (chat.tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|im_start|>"))
    ids, scored = completion.ids.tolist(), completion.scored.tolist()
    assert (ids.count(ends), ids.count(starts)) == (
        5,
        5,
    )  # the line of tools, the question, a call, its result, the answer
    assert [n for n, is_scored in zip(ids, scored, strict=True) if is_scored].count(ends) == 2
    assert "a<|im_end|>b" in chat.tokenizer.decode([n for n, s in zip(ids, scored, strict=True) if s])


def test_every_turn_of_an_answer_with_results_between_is_scored(
    tokenizers: dict[tuple[str, ...], Any], tmp_path: Path
) -> None:
    chat = tags(tokenizers, tmp_path)
    better = [USER, calls(call(1, "tide")), result(1, "06:00"), DONE]
    worse = [USER, calls(call(1, "depth")), result(1, "3 m"), DONE]
    row = to_row({"chosen": better, "rejected": worse, "tools": TOOLS}, where="here")
    (tree,) = prepare([row], chat, unit=Pairs(), max_length=10_000).trees
    for completion, name, said in zip(tree.completions, ("tide", "depth"), ("06:00", "3 m"), strict=True):
        scored = chat.tokenizer.decode(completion.ids[completion.scored])
        call_text = f'<tool_call>\n{{"name": "{name}", "arguments": {{}}}}\n</tool_call><|im_end|>'
        assert scored == f"{call_text}At six.<|im_end|>"
        assert said in chat.tokenizer.decode(completion.ids[~completion.scored])


def test_a_prompt_to_sample_from_holds_its_tools_and_calls(
    tokenizers: dict[tuple[str, ...], Any], tmp_path: Path
) -> None:
    chat = tags(tokenizers, tmp_path)
    row = to_row({"prompt": [USER, calls(call(1, "tide")), result(1, "06:00")], "tools": TOOLS}, where="here")
    (tree,) = prepare([row], chat, unit=Samples(), max_length=10_000).trees
    text = chat.tokenizer.decode(tree.prompt.ids)
    assert tree.prompt.ids.tolist() == chat.prompt_ids(row.prompt)
    assert all(part in text for part in ("Functions:", '"name": "tide"', "06:00")) and text.endswith("assistant\n")


_CALL = '<tool_call>\n{"name": "tide", "arguments": {"harbour": "h0"}}\n</tool_call><|im_end|>'
CASES = {
    "sft_empty": [_CALL, "High water is at 06:00.<|im_end|>"],
    "sft_null": [_CALL, "High water is at 06:00.<|im_end|>"],
    "sft_call_last": [f"Let me look.\n{_CALL}"],
    "dpo": ["High water is at 06:00.<|im_end|>", "I cannot know.<|im_end|>"],
    "dpo_answers_are_calls": [
        f"Let me look.\n{_CALL.replace('h0', 'h')}",
        "Let me look.\n" + _CALL.replace('"harbour": "h0"', '"port": 1'),
    ],
}


@pytest.mark.skipif(not FOLDER.exists(), reason="the shared real data is not here")
@pytest.mark.parametrize(("name", "scored"), CASES.items(), ids=CASES.keys())
def test_the_reported_case_scores_its_calls_and_answers_alone(
    name: str, scored: list[str], tokenizers: dict[tuple[str, ...], Any], tmp_path: Path
) -> None:
    template = (FOLDER / "qwen2.5-instruct.jinja").read_text(encoding="utf-8")
    chat = chat_of(tokenizers[CHATML_MARKS], template, tmp_path)
    file = FOLDER.parents[1] / "cases" / "01-tool-calls-dropped" / f"{name}.jsonl"
    row = read_rows(str(file))[0]
    unit = Chosen() if row.rejected is None else Pairs()
    (tree,) = prepare([row], chat, unit=unit, max_length=10_000).trees
    whole = "".join(chat.tokenizer.decode(segment.ids) for segment in tree.segments)
    assert '"description": "Tide table of a harbour"' in whole
    assert "".join(chat.tokenizer.decode(c.ids[c.scored]) for c in tree.completions) == "".join(scored)
