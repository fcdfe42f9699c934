"""Rows of our own in the formats that other tools document: each is read right, or refused with what to do.

The formats are those of LLaMA-Factory, Axolotl, TRL, ms-swift, OpenAI, Unsloth, verl, OpenRLHF, NeMo-RL, FastChat and
turbo-alignment, as their documentation described them in 2026.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NamedTuple

import pytest

from alignkit.data.reading.rows import Messages, Row, to_row, unusable_reason
from alignkit.errors import InputError
from alignkit.units import Chosen, Pairs, Samples

SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a river."}
GOOD, BAD = {"role": "assistant", "content": "The Rhine."}, {"role": "assistant", "content": "Rivers are long."}
HUMAN, GPT, WORSE = (
    {"from": "human", "value": "Name a river."},
    {"from": "gpt", "value": "The Rhine."},
    {"from": "gpt", "value": "Rivers are long."},
)
ASKED, BRIEFLY = ("user: Name a river.",), ("system: Be brief.", "user: Name a river.")


class Read(NamedTuple):
    """What a row is read as; the texts of its answers."""

    prompt: tuple[str, ...]
    chosen: str | None = None
    rejected: str | None = None


ANSWER, PAIR = Read(ASKED, "The Rhine."), Read(ASKED, "The Rhine.", "Rivers are long.")
THUMB_DOWN, ALONE = Read(ASKED, None, "Rivers are long."), Read(ASKED)


def parts(text: str, name: str = "text") -> list[dict[str, str]]:
    return [{"type": "text", name: text}]


def of_v1(*texts: str) -> list[dict[str, Any]]:
    roles = ("system", "user", "assistant")
    return [
        {"role": role, "content": parts(text, "value"), "loss_weight": float(role == "assistant")}
        for role, text in zip(roles, texts, strict=True)
    ]


INSTRUCTION = {"instruction": "Name a river.", "input": "", "system": "", "history": []}
QUESTION = {"system": "Be brief.", "question": "Name a river."}
FORMATS: dict[str, tuple[dict[str, Any], Read | str]] = {
    "LLaMA-Factory alpaca": ({**INSTRUCTION, "output": "The Rhine."}, ANSWER),
    "LLaMA-Factory alpaca with input, system and history": (
        {
            "instruction": "Name a river.",
            "input": "Of Egypt.",
            "output": "The Nile.",
            "system": "Be brief.",
            "history": [["Name a lake.", "Baikal."]],
        },
        Read(
            ("system: Be brief.", "user: Name a lake.", "assistant: Baikal.", "user: Name a river.\n\nOf Egypt."),
            "The Nile.",
        ),
    ),
    "LLaMA-Factory pretraining": ({"text": "A river is long."}, "'text': answers to prompts are trained"),
    "LLaMA-Factory ranking": (
        {"instruction": "Name a river.", "input": "", "chosen": "The Rhine.", "rejected": "Rivers are long."},
        PAIR,
    ),
    "LLaMA-Factory KTO": ({**INSTRUCTION, "output": "Rivers are long.", "kto_tag": False}, THUMB_DOWN),
    "LLaMA-Factory images": ({**INSTRUCTION, "output": "The Rhine.", "images": ["a.jpg"]}, "'images'.*not read"),
    "LLaMA-Factory videos": ({"messages": [USER, GOOD], "videos": ["a.mp4"]}, "'videos'.*not read"),
    "LLaMA-Factory audios": ({"messages": [USER, GOOD], "audios": ["a.wav"]}, "'audios'.*not read"),
    "LLaMA-Factory sharegpt": ({"conversations": [HUMAN, GPT], "system": "Be brief."}, Read(BRIEFLY, "The Rhine.")),
    "LLaMA-Factory sharegpt ranking": ({"conversations": [HUMAN], "chosen": GPT, "rejected": WORSE}, PAIR),
    "LLaMA-Factory sharegpt KTO": ({"conversations": [HUMAN, WORSE], "kto_tag": False}, THUMB_DOWN),
    "LLaMA-Factory openai": ({"messages": [SYSTEM, USER, GOOD]}, Read(BRIEFLY, "The Rhine.")),
    "LLaMA-Factory v1": ({"messages": of_v1("Be brief.", "Name a river.", "The Rhine.")}, Read(BRIEFLY, "The Rhine.")),
    "LLaMA-Factory v1 DPO": (
        {
            "chosen_messages": of_v1("Be brief.", "Name a river.", "The Rhine."),
            "rejected_messages": of_v1("Be brief.", "Name a river.", "Rivers are long."),
        },
        Read(BRIEFLY, "The Rhine.", "Rivers are long."),
    ),
    "LLaMA-Factory v1 picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "value": "a.jpg"}]}, GOOD]},
        "part of type 'image_url': pictures are not read",
    ),
    "Axolotl completion": ({"text": "A river is long."}, "'text': answers to prompts are trained"),
    "Axolotl input_output": (
        {"segments": [{"label": False, "text": "<s>Name a river.\n"}, {"label": True, "text": "The Rhine.</s>"}]},
        "'segments': texts without roles are not read; write them as messages",
    ),
    "Axolotl pre-tokenized": (
        {"input_ids": [1, 2], "attention_mask": [1, 1], "labels": [-100, 2]},
        "'input_ids': tokens are not read",
    ),
    "Axolotl chat_template": (
        {"messages": [USER, {**BAD, "training": False}, USER, {**GOOD, "training": True}]},
        Read((*ASKED, "assistant: Rivers are long.", *ASKED), "The Rhine."),
    ),
    "Axolotl chat_template with details": (
        {"messages": [USER, {**GOOD, "train_detail": [{"begin_offset": 0, "end_offset": 2, "train": False}]}]},
        "field 'train_detail': parts of a turn cannot be left unscored; split the turn",
    ),
    "Axolotl jeopardy": (
        {"category": "Geography", "question": "Name a river.", "answer": "The Rhine."},
        "'answer': .*map it by --columns completion=answer",
    ),
    "Axolotl oasst": ({"INSTRUCTION": "Name a river.", "RESPONSE": "The Rhine."}, "did you mean 'instruction'"),
    "Axolotl gpteacher": (
        {"instruction": "Name a river.", "input": "", "response": "The Rhine."},
        "'response': .*map it by --columns completion=response",
    ),
    "Axolotl reflection": (
        {**INSTRUCTION, "output": "Rivers are long.", "reflection": "No river named.", "corrected": "The Rhine."},
        "'reflection': it corrects 'output'; map the right answer by --columns output=corrected",
    ),
    "Axolotl explainchoice": (
        {"question": "Name a river.", "choices": ["Rhine", "Alps"], "solution": "Rhine", "explanation": "It flows."},
        "'solution'",
    ),
    "Axolotl summarizetldr": ({"article": "A long text.", "summary": "Short."}, "'article': it is no part"),
    "Axolotl open_orca": (
        {"system_prompt": "Be brief.", "question": "Name a river.", "response": "The Rhine."},
        "'response': .*--columns completion=response",
    ),
    "Axolotl camel_ai": ({"message_1": "Name a river.", "message_2": "The Rhine."}, "unknown row shape.*message_1"),
    "Axolotl DPO chatml.argilla": (
        {**INSTRUCTION, "chosen_response": "The Rhine.", "rejected_response": "Rivers are long."},
        PAIR,
    ),
    "Axolotl DPO argilla_chat": ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, PAIR),
    "Axolotl DPO icr": (
        {"system": "Be brief.", "input": "Name a river.", "chosen": "The Rhine.", "rejected": "Rivers are long."},
        Read(BRIEFLY, "The Rhine.", "Rivers are long."),
    ),
    "Axolotl DPO intel": (
        {**QUESTION, "chosen": "The Rhine.", "rejected": "Rivers are long."},
        Read(BRIEFLY, "The Rhine.", "Rivers are long."),
    ),
    "Axolotl DPO prompt_pairs": (
        {"system": "Be brief.", "prompt": "Name a river.", "chosen": "The Rhine.", "rejected": "Rivers are long."},
        Read(BRIEFLY, "The Rhine.", "Rivers are long."),
    ),
    "Axolotl DPO ultra": (
        {"system": "Be brief.", "prompt": "Name a river.", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        Read(BRIEFLY, "The Rhine.", "Rivers are long."),
    ),
    "Axolotl DPO nectar": (
        {"prompt": "Name a river.", "answers": [{"answer": "The Rhine.", "rank": 1}, {"answer": "No.", "rank": 2}]},
        ALONE,
    ),
    "Axolotl DPO chat_template": ({"messages": [USER], "chosen": GOOD, "rejected": BAD}, PAIR),
    "Axolotl KTO argilla": ({"instruction": "Name a river.", "completion": "Rivers are long.", "label": 0}, THUMB_DOWN),
    "Axolotl KTO argilla_chat, the prompt in chosen": ({"chosen": [USER], "completion": [GOOD], "label": 1}, ANSWER),
    "Axolotl ORPO": (
        {"system": "Be brief.", "prompt": "Name a river.", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        Read(BRIEFLY, "The Rhine.", "Rivers are long."),
    ),
    "Axolotl pygmalion": ({"conversations": [{"role": "Human", "value": "Name a river."}]}, "did you mean 'human'"),
    "Axolotl context_qa": ({"article": "A.", "question": "Name a river.", "answer": "Po."}, "'article': it is no part"),
    "Axolotl creative_acr": ({"instruction": "Name a river.", "revision": "Po."}, "unknown row shape.*revision"),
    "Axolotl metharme": ({"prompt": "Name a river.", "generation": "Po."}, ALONE),
    "Axolotl user_defined with train flags": (
        {"conversations": [{**HUMAN, "train": True}, {**GPT, "train": True}]},
        "message of the user has train: true",
    ),
    "Axolotl KTO argilla_chat": (
        {"completion": [USER, GOOD], "label": True},
        "'completion' is an answer without a prompt; write a whole conversation as 'messages'",
    ),
    "Axolotl KTO intel": ({**QUESTION, "completion": "The Rhine.", "label": True}, Read(BRIEFLY, "The Rhine.")),
    "Axolotl KTO ultra": ({"prompt": "Name a river.", "completion": "Rivers are long.", "label": False}, THUMB_DOWN),
    "Axolotl reward": ({"input": "Name a river.", "chosen": "The Rhine.", "rejected": "Rivers are long."}, PAIR),
    "Axolotl and TRL stepwise": (
        {"prompt": "Name a river.", "completions": ["It is long.", "The Rhine."], "labels": [False, True]},
        "steps with labels are not read",
    ),
    "TRL language modelling": ({"text": "A river is long."}, "'text': answers to prompts are trained"),
    "TRL conversational": ({"messages": [USER, GOOD]}, ANSWER),
    "TRL prompt-only": ({"prompt": "Name a river."}, ALONE),
    "TRL prompt-only, conversational": ({"prompt": [USER]}, ALONE),
    "TRL prompt-completion": ({"prompt": "Name a river.", "completion": "The Rhine."}, ANSWER),
    "TRL prompt-completion, conversational": ({"prompt": [USER], "completion": [GOOD]}, ANSWER),
    "TRL preference": ({"prompt": "Name a river.", "chosen": "The Rhine.", "rejected": "Rivers are long."}, PAIR),
    "TRL preference, conversational": ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, PAIR),
    "TRL implicit prompt": (
        {"chosen": "Name a river. The Rhine.", "rejected": "Name a river. Rivers are long."},
        "'chosen' holds only the answer and there is no 'prompt'",
    ),
    "TRL implicit prompt, conversational": ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, PAIR),
    "TRL unpaired": ({"prompt": "Name a river.", "completion": "Rivers are long.", "label": False}, THUMB_DOWN),
    "TRL unpaired, conversational": ({"prompt": [USER], "completion": [BAD], "label": False}, THUMB_DOWN),
    "TRL vision": ({"prompt": [USER], "completion": [GOOD], "image": {"bytes": "...", "path": None}}, "'image'"),
    "TRL template values": ({"prompt": [USER], "chat_template_kwargs": {"enable_thinking": False}}, ALONE),
    "ms-swift messages": ({"messages": [SYSTEM, USER, GOOD]}, Read(BRIEFLY, "The Rhine.")),
    "ms-swift pretraining": ({"messages": [GOOD]}, Read((), "The Rhine.")),
    "ms-swift sharegpt": (
        {"system": "Be brief.", "conversation": [{"human": "Name a river.", "assistant": "The Rhine."}]},
        "'conversation': its turns are not read; map it by --columns messages=conversation",
    ),
    "ms-swift query-response": (
        {"system": "Be brief.", "query": "Name a river.", "response": "The Rhine.", "history": []},
        "'query': .*--columns prompt=query.* and 'response': .*--columns completion=response",
    ),
    "ms-swift DPO": ({"messages": [USER, GOOD], "rejected_response": "Rivers are long."}, PAIR),
    "ms-swift DPO, conversations": ({"messages": [USER, GOOD], "rejected_messages": [USER, BAD]}, PAIR),
    "ms-swift KTO": ({"messages": [USER, BAD], "label": False}, THUMB_DOWN),
    "ms-swift loss": (
        {"messages": [USER, {**BAD, "loss": False}, USER, {**GOOD, "loss": True}]},
        Read((*ASKED, "assistant: Rivers are long.", *ASKED), "The Rhine."),
    ),
    "ms-swift loss of a user": ({"messages": [{**USER, "loss": True}, GOOD]}, "message of the user has loss: true"),
    "ms-swift GRPO": ({"messages": [USER], "solution": "The Rhine."}, ALONE),
    "ms-swift embedding": (
        {"messages": [USER], "positive_messages": [[USER]], "negative_messages": [[USER]]},
        "'negative_messages'",
    ),
    "ms-swift grounding": (
        {"messages": [USER, GOOD], "images": ["a.jpg"], "objects": {"ref": ["river"], "bbox": [[1, 2, 3, 4]]}},
        "'images'",
    ),
    "OpenAI chat": (
        {"messages": [SYSTEM, USER, {**BAD, "weight": 0}, USER, {**GOOD, "weight": 1}]},
        Read((*BRIEFLY, "assistant: Rivers are long.", *ASKED), "The Rhine."),
    ),
    "OpenAI chat with typed parts": ({"messages": [{"role": "user", "content": parts("Name a river.")}, GOOD]}, ANSWER),
    "OpenAI vision": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.jpg"}}]}, GOOD]},
        "part of type 'image_url': pictures are not read",
    ),
    "OpenAI preference": (
        {
            "input": {"messages": [USER], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [GOOD],
            "non_preferred_output": [BAD],
        },
        PAIR,
    ),
    "OpenAI RFT": (
        {"messages": [{**SYSTEM, "role": "developer"}, USER], "reference_answer": "The Rhine.", "item": {"n": 3}},
        Read(BRIEFLY),
    ),
    "Unsloth text beside a conversation": ({"conversations": [HUMAN, GPT], "text": "<s>..."}, ANSWER),
    "Gemini": ({"contents": [{"role": "user", "parts": [{"text": "Name a river."}]}]}, "'contents': .*write it as"),
    "verl": (
        {
            "data_source": "rivers",
            "prompt": [USER],
            "ability": "geography",
            "reward_model": {"style": "rule", "ground_truth": "The Rhine."},
            "extra_info": {"split": "train", "index": 0},
        },
        ALONE,
    ),
    "OpenRLHF input and output": ({"input": "Name a river.", "output": "The Rhine."}, ANSWER),
    "OpenRLHF chat": ({"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]}, PAIR),
    "OpenRLHF context": ({"context_messages": [USER]}, "'context_messages': .*--columns prompt=context_messages"),
    "NeMo-RL messages": ({"messages": [USER, GOOD], "task_name": "rivers"}, ANSWER),
    "NeMo-RL response": ({"input": "Name a river.", "output": "The Rhine."}, ANSWER),
    "NeMo-RL maths": ({"problem": "2 + 3?", "expected_answer": "5"}, "'problem': .*--columns prompt=problem"),
    "NeMo-RL preference": (
        {"context": [USER], "completions": [{"rank": 0, "completion": [GOOD]}, {"rank": 1, "completion": [BAD]}]},
        "'context': it is no part of the prompt.*--columns prompt=context",
    ),
    "NeMo-RL preference, its context mapped": (
        {"prompt": [USER], "completions": [{"rank": 0, "completion": [GOOD]}, {"rank": 1, "completion": [BAD]}]},
        "completions with ranks are not read",
    ),
    "NeMo of old": (
        {"mask": "User", "system": "", "conversations": [{"from": "User", "value": "Name a river."}]},
        "'mask': which tokens are scored",
    ),
    "FastChat": ({"id": "r_0", "conversations": [HUMAN, GPT]}, ANSWER),
    "MT-Bench": (
        {"question_id": 81, "category": "writing", "turns": ["Name a river.", "Another."], "reference": ["The Rhine."]},
        "'turns': questions in a row are no prompt",
    ),
    "turbo-alignment chat": ({"messages": [USER, {"role": "bot", "content": "The Rhine."}]}, ANSWER),
    "turbo-alignment preference": (
        {
            "context": [USER],
            "answer_w": {"role": "bot", "content": "The Rhine."},
            "answer_l": {"role": "bot", "content": "Rivers are long."},
        },
        "'context': .*--columns prompt=context",
    ),
    "turbo-alignment preference, its context mapped": (
        {
            "prompt": [USER],
            "answer_w": {"role": "bot", "content": "The Rhine."},
            "answer_l": {"role": "bot", "content": "Rivers are long."},
        },
        PAIR,
    ),
    "OpenAssistant": ({"messages": [{**USER, "role": "prompter"}, GOOD]}, ANSWER),
}


def texts(messages: Messages) -> tuple[str, ...]:
    return tuple(f"{message['role']}: {message['content']}" for message in messages)


@pytest.mark.parametrize(("fields", "expected"), FORMATS.values(), ids=FORMATS.keys())
def test_a_row_of_every_documented_format_is_read_right_or_refused_by_name(
    fields: dict[str, Any], expected: Read | str
) -> None:
    if isinstance(expected, str):
        with pytest.raises(InputError, match=f"^here: .*{expected}"):
            to_row(fields, where="here")
        return
    row = to_row(fields, where="here")
    answers = [None if side is None else side[-1]["content"] for side in (row.chosen, row.rejected)]
    assert (texts(row.prompt), *answers) == expected
    assert (unusable_reason(row, Pairs()) is None) == (None not in answers)
    assert (unusable_reason(row, Chosen()) is None) == (row.chosen is not None)


def test_turns_that_are_not_to_be_scored_are_marked() -> None:
    for name in ("Axolotl chat_template", "ms-swift loss", "OpenAI chat"):
        row = to_row(FORMATS[name][0], where="here")
        (before,) = [message for message in row.prompt if message["role"] == "assistant"]
        assert before["weight"] == 0 and row.chosen is not None and "weight" not in row.chosen[-1]


CALL = {"name": "depth", "arguments": '{"river": "needle"}'}
OPENAI_CALL = {"id": "c1", "type": "function", "function": CALL}
TOOL = {"type": "function", "function": {"name": "depth", "description": "needle", "parameters": {"type": "object"}}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "needle"}
CARRIED: dict[str, dict[str, Any]] = {
    "OpenAI tool calls": {"messages": [USER, {"role": "assistant", "tool_calls": [OPENAI_CALL]}]},
    "OpenAI tool results": {"messages": [USER, {**GOOD, "tool_calls": [OPENAI_CALL]}, RESULT, GOOD]},
    "OpenAI tools": {"messages": [USER, GOOD], "tools": [TOOL]},
    "OpenAI functions": {"messages": [USER, GOOD], "functions": [TOOL["function"]]},
    "OpenAI function calls": {"messages": [USER, {"role": "assistant", "content": None, "function_call": CALL}]},
    "OpenAI preference with tools": {
        "input": {"messages": [USER], "tools": [TOOL]},
        "preferred_output": [GOOD],
        "non_preferred_output": [BAD],
    },
    "TRL tools as text": {"messages": [USER, GOOD], "tools": json.dumps([TOOL])},
    "LLaMA-Factory sharegpt tools": {"conversations": [HUMAN, GPT], "tools": json.dumps([TOOL["function"]])},
    "LLaMA-Factory sharegpt calls": {
        "conversations": [HUMAN, {"from": "function_call", "value": json.dumps(CALL)}, WORSE]
    },
    "LLaMA-Factory sharegpt results": {"conversations": [HUMAN, {"from": "observation", "value": "needle"}, GPT]},
    "LLaMA-Factory v1 reasoning": {
        "messages": [USER, {"role": "assistant", "content": [{"type": "reasoning", "value": "needle"}]}]
    },
    "LLaMA-Factory v1 calls": {
        "messages": [USER, {"role": "assistant", "content": [{"type": "tool_call", "value": json.dumps(CALL)}]}]
    },
    "ms-swift agent": {"messages": [USER, {"role": "tool_call", "content": json.dumps(CALL)}, GOOD]},
    "reasoning of DeepSeek and Qwen3": {"messages": [USER, {**GOOD, "reasoning_content": "needle"}]},
    "reasoning of vLLM": {"messages": [USER, {**GOOD, "reasoning": "needle"}]},
    "thinking of Ollama": {"messages": [USER, {**GOOD, "thinking": "needle"}]},
    "thinking of Anthropic": {
        "messages": [USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "needle"}]}]
    },
    "names of speakers": {"messages": [{**USER, "name": "needle"}, GOOD]},
}


@pytest.mark.parametrize("fields", CARRIED.values(), ids=CARRIED.keys())
def test_what_a_template_may_or_may_not_show_is_carried_to_it_or_refused_by_name(fields: dict[str, Any]) -> None:
    row, refusal = _read(fields)
    if row is None:
        assert any(repr(name) in refusal for name in _names(fields))
    else:
        assert "needle" in str(_apart_from_fields(row))


def _read(fields: dict[str, Any]) -> tuple[Row | None, str]:
    try:
        return to_row(fields, where="here"), ""
    except InputError as error:
        return None, str(error)


def _names(value: Any) -> set[str]:
    """Every key and every short text in a row: what a refusal may name."""
    if isinstance(value, dict):
        return set(value).union(*map(_names, value.values()))
    if isinstance(value, list):
        return set().union(*map(_names, value))
    return {value} if isinstance(value, str) else set()


def _apart_from_fields(row: Row) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(row).items() if name not in ("fields", "json")}


def test_prompts_alone_are_prompts() -> None:
    for fields, expected in FORMATS.values():
        if isinstance(expected, Read) and expected.chosen is expected.rejected is None:
            assert unusable_reason(to_row(fields, where="here"), Samples()) is None
