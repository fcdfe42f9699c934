"""Rows with a field that changes what they mean: each must be read as it says, or refused or counted by its name.

What was reported against other tools as silent (rows trained as something else, exit code 0) is tried through commands:
rows of our own here, and the files beside the repository where they are.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

from bench.attacks_ground import Ground, Tried, training
from bench.texts import ROOT

_CASES = ROOT.parent / "shared" / "cases"
_USER, _ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
_TURNS = [_USER, _ANSWER]
_CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
_MEANINGFUL: dict[str, tuple[dict[str, Any], str, tuple[str, ...], tuple[str, ...]]] = {
    # a row, the command that reads it, words that must be in what it says, and words that must not
    "tool calls": ({"messages": [_USER, _CALL, {"role": "tool", "content": "4"}, _ANSWER]}, "sft", ("tool",), ()),
    "tools": ({"messages": _TURNS, "tools": [{"type": "function"}]}, "sft", ("tools",), ()),
    "a call as the answer": ({"prompt": [_USER], "chosen": [_CALL], "rejected": [_ANSWER]}, "dpo", ("tool",), ()),
    "function_call": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{}"}]},
        "sft",
        ("call of a function",),
        (),
    ),
    "thoughts": ({"messages": [_USER, _ANSWER | {"reasoning_content": "hm"}]}, "sft", ("reasoning_content",), ()),
    "pictures": ({"messages": _TURNS, "images": ["a.png"]}, "sft", ("images",), ()),
    "a picture's part": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, _ANSWER]},
        "sft",
        ("image_url",),
        (),
    ),
    "text parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello there"}]}, _ANSWER]},
        "show",
        ("hello there",),
        (),
    ),
    "a turn not to be trained": (
        {"messages": [_USER, _ANSWER | {"content": "nine", "train": False}, _USER, _ANSWER | {"content": "no"}]},
        "show",
        ("3 scored",),
        (),
    ),
    "a turn of weight 0": (
        {"messages": [_USER, _ANSWER | {"content": "nine", "loss_weight": 0.0}, _USER, _ANSWER | {"content": "no"}]},
        "show",
        ("3 scored",),
        (),
    ),
    "a system column": ({"system": "be brief", "instruction": "q", "output": "a"}, "show", ("be brief",), ()),
    "a history column": (
        {"history": [["earlier", "answer"]], "instruction": "q", "output": "a"},
        "show",
        ("earlier", "answer"),
        (),
    ),
    "a bad answer of a conversation": ({"messages": _TURNS, "label": False}, "sft", ("marked bad",), ()),
    "a label as text": ({"prompt": "q", "completion": "a", "label": "thumbs_down"}, "sft", ("label",), ()),
    "a label of -1": ({"prompt": "q", "completion": "a", "label": -1}, "sft", ("label",), ()),
    "a label that is missing": ({"messages": _TURNS, "label": float("nan")}, "sft", ("label",), ()),
    "a preference beside a conversation": (
        {"messages": [_USER], "chosen": "good answer", "rejected": "poor answer"},
        "show",
        ("good answer", "poor answer"),
        (),
    ),
    "rejected_response": ({"messages": _TURNS, "rejected_response": "poor answer"}, "show", ("poor answer",), ()),
    "a tie": (
        {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 3, "score_rejected": 3},
        "dpo",
        ("tie",),
        (),
    ),
    "nan for text": (
        {"instruction": "Name one.", "input": float("nan"), "output": "a"},
        "show",
        ("Name one.",),
        ("nan",),
    ),
    "an unknown field of a message": ({"messages": [_USER, _ANSWER | {"mood": "glad"}]}, "sft", ("mood",), ()),
    "weights of rows": ({"prompt": "q", "chosen": "a", "sample_weight": 0.2}, "sft", ("sample_weight",), ()),
    "two users in a row": ({"messages": [_USER, _ANSWER, _USER, _USER]}, "dpo", ("user",), ()),
    "nothing but a system turn": ({"messages": [{"role": "system", "content": "q"}]}, "sft", ("ends with",), ()),
}
_MEANINGFUL |= {
    "a template's own marks": (
        {"prompt": "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", "completion": "a"},
        "show",
        ("marks of a chat template",),
        (),
    ),
    "whole transcripts beside their prompt": (
        {"prompt": "r", "chosen": "\n\nHuman: r\n\nAssistant: yes", "rejected": "\n\nHuman: r\n\nAssistant: no"},
        "show",
        ("yes", "no"),
        ("Human", "Assistant"),
    ),
    "messages as text": ({"prompt": json.dumps([_USER]), "completion": "a"}, "show", ("messages written as text",), ()),
    "other system messages": (
        {
            "chosen": [{"role": "system", "content": "x"}, *_TURNS],
            "rejected": [{"role": "system", "content": "y"}, _USER, _ANSWER | {"content": "b"}],
        },
        "dpo",
        ("different system messages",),
        (),
    ),
    "a system message inside input": (
        {"input": {"messages": [_USER], "system": "x"}, "preferred_output": "a", "non_preferred_output": "b"},
        "show",
        ("'system'",),
        (),
    ),
    "a pair with its answers swapped": (
        {"prompt": "q", "chosen": "a", "rejected": "b", "swapped": True},
        "show",
        ("swapped",),
        (),
    ),
    "a winner": ({"prompt": "q", "chosen": "a", "rejected": "b", "winner": "rejected"}, "show", ("winner",), ()),
    "two labels": ({"prompt": "q", "completion": "a", "label": True, "kto_tag": False}, "show", ("kto_tag",), ()),
    "a thumb down": ({"prompt": "q", "completion": "a", "thumbs_down": True}, "show", ("thumbs_down",), ()),
    "a thumb up that is none": ({"prompt": "q", "completion": "a", "thumbs_up": False}, "sft", ("marked bad",), ()),
    "two chosen answers": ({"prompt": "q", "chosen": "a", "answer_w": "c", "rejected": "b"}, "show", ("answer_w",), ()),
    "two prompts": ({"prompt": "q", "question": "else", "chosen": "a", "rejected": "b"}, "show", ("question",), ()),
    "two conversations": (
        {"messages": _TURNS, "conversations": [{"from": "human", "value": "else"}]},
        "show",
        ("conversations",),
        (),
    ),
    "an answer and another output": (
        {"instruction": "q", "output": "a", "chosen": "c", "rejected": "b"},
        "show",
        ("output",),
        (),
    ),
    "steps with labels": ({"prompt": "q", "completions": ["a", "b"], "labels": [True, False]}, "show", ("steps",), ()),
    "ranked completions": (
        {"prompt": "q", "completions": [{"rank": 1, "completion": "b"}, {"rank": 0, "completion": "a"}]},
        "show",
        ("ranks",),
        (),
    ),
    "an answer that was corrected": (
        {"instruction": "q", "output": "wrong", "corrected": "right"},
        "show",
        ("corrected",),
        (),
    ),
    "a missing cell as a word": ({"instruction": "q", "input": "nan", "output": "a"}, "show", ("missing cell",), ()),
    "a missing system cell": ({"system": float("nan"), "prompt": "q", "completion": "a"}, "show", ("q",), ("nan",)),
    "a number as an answer": ({"prompt": "q", "completion": 0}, "show", ("number 0",), ()),
    "a number as an input": ({"instruction": "q", "input": 1, "output": "a"}, "show", ("number 1",), ()),
    "half a weight": ({"messages": [_USER, _ANSWER | {"weight": 0.5}]}, "show", ("weight",), ()),
    "a loss on the user": ({"messages": [_USER | {"loss": True}, _ANSWER]}, "show", ("loss",), ()),
    "part of a turn": (
        {"messages": [_USER, _ANSWER | {"train_detail": [{"train": False}]}]},
        "show",
        ("train_detail",),
        (),
    ),
    "a row that is not trained on": ({"prompt": "q", "completion": "a", "train": False}, "show", ("'train'",), ()),
    "another spelling": ({"messages": _TURNS, "toolCalls": [{"id": "1"}]}, "show", ("toolCalls",), ()),
    "turns in a column of another name": (
        {"prompt": "q", "completion": "a", "chat_history": [["x", "y"]]},
        "show",
        ("chat_history",),
        (),
    ),
    "documents": ({"prompt": "q", "completion": "a", "documents": ["d"]}, "show", ("documents",), ()),
    "examples": ({"prompt": "q", "completion": "a", "few_shot": ["d"]}, "show", ("few_shot",), ()),
    "text behind the answer": ({"prompt": "q", "completion": "a", "suffix": "z"}, "show", ("suffix",), ()),
    "a template of the row's own": ({"messages": _TURNS, "chat_template": "{{ 1 }}"}, "show", ("chat_template",), ()),
    "thinking turned off": ({"messages": _TURNS, "enable_thinking": False}, "show", ("enable_thinking",), ()),
    "thoughts as a part": (
        {"messages": [_USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]}]},
        "show",
        ("thinking",),
        (),
    ),
    "parts with value": (
        {"messages": [{"role": "user", "content": [{"type": "text", "value": "hello there"}]}, _ANSWER]},
        "show",
        ("hello there",),
        (),
    ),
    "a blank prompt": ({"prompt": " ", "chosen": "a"}, "show", ("empty prompt",), ()),
    "a prompt that ends with the assistant": (
        {"prompt": _TURNS, "completion": "b"},
        "show",
        ("ends with an assist",),
        (),
    ),
    "text alone": ({"text": "a river"}, "show", ("'text'",), ()),
    "questions in a row": ({"turns": ["q", "r"]}, "show", ("'turns'",), ()),
    "segments": ({"segments": [{"text": "q", "label": False}]}, "show", ("'segments'",), ()),
}
_FILES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    # of each file beside the repository: the command, words of what it must say, and words that it must not
    "01-tool-calls-dropped/dpo.jsonl": ("show", ("tool",), ()),
    "01-tool-calls-dropped/dpo_answers_are_calls.jsonl": ("show", ("tool",), ()),
    "01-tool-calls-dropped/sft_call_last.jsonl": ("show", ("tool",), ()),
    "01-tool-calls-dropped/sft_empty.jsonl": ("show", ("tool",), ()),
    "01-tool-calls-dropped/sft_null.jsonl": ("show", ("tool",), ()),
    "02-reasoning-content/rows.jsonl": ("show", ("reasoning_content|and five more",), ()),
    "03-kto-labels/labels_01.jsonl": ("sft", ("marked bad",), ()),
    "03-kto-labels/labels_minus1.jsonl": ("show", ("'label'", "-1"), ()),
    "03-kto-labels/labels_text.jsonl": ("show", ("'label'", "'true'"), ()),
    "03-kto-labels/labels_updown.jsonl": ("show", ("'label'", "thumbs_up"), ()),
    "03-kto-labels/messages_label.jsonl": ("sft", ("marked bad",), ()),
    "04-preference-beside-a-conversation/axolotl.jsonl": ("show", ("River 0.", "No."), ()),
    "04-preference-beside-a-conversation/axolotl_history_ends_in_answer.jsonl": ("show", ("ends with an assist",), ()),
    "04-preference-beside-a-conversation/llamafactory.jsonl": ("show", ("River 0.", "No."), ()),
    "04-preference-beside-a-conversation/openai.jsonl": ("show", ("River 0.", "No."), ()),
    "04-preference-beside-a-conversation/swift.jsonl": ("show", ("River 0.", "No."), ()),
    "06-bytes/array.json": ("show", ("River 0.|array|unknown kind",), ()),
    "06-bytes/bom.jsonl": ("show", ("River 0.", "No."), ()),
    "06-bytes/crlf.jsonl": ("show", ("River 0.", "No."), ()),
    "06-bytes/cr_only.jsonl": ("show", ("carriage return|River 0.",), ()),
    "06-bytes/trailing_comma.jsonl": ("show", ("line 1",), ("remove",)),
    "06-bytes/utf16.jsonl": ("show", ("UTF-8|River 0.",), ()),
    "07-nan-cells/list_input.jsonl": ("show", ("'input'",), ()),
    "07-nan-cells/nan_input.jsonl": ("show", ("River 0.",), ("nan", "NaN")),
    "07-nan-cells/nan_label.jsonl": ("show", ("'label'",), ()),
    "07-nan-cells/nan_output.jsonl": ("sft", ("no chosen answer",), ()),
    "07-nan-cells/nan_scores.jsonl": ("show", ("River 0.", "No."), ("tie",)),
    "07-nan-cells/number_input.jsonl": ("show", ("'input'", "number 0"), ()),
    "07-nan-cells/number_output.jsonl": ("show", ("'output'", "number 1"), ()),
    "08-conversation-ends-with-user/half.jsonl": ("dpo", ("ends with the user",), ()),
    "10-content-parts/image_parts.jsonl": ("show", ("'image'",), ()),
    "10-content-parts/image_tag.jsonl": ("show", ("images",), ()),
    "10-content-parts/loss_flag.jsonl": ("show", ("River 0.", "9 scored"), ()),
    "10-content-parts/loss_weight.jsonl": ("show", ("River 0.", "9 scored"), ()),
    "10-content-parts/text_parts.jsonl": ("show", ("Name river 0.", "River 0."), ()),
    "10-content-parts/train_flag.jsonl": ("show", ("River 0.", "9 scored"), ()),
    "12-nothing-left-of-the-answer/rows.jsonl": ("show", ("Read this",), ()),
    "ultrafeedback-columns/rows.jsonl": ("dpo", ("1 tie",), ()),
}


def silent(ground: Ground, *, files: bool) -> Tried:
    """Try every row, and every file; what fails is a case that is silent."""
    tried = Tried("silent")
    for name, (row, how, words, without) in _MEANINGFUL.items():
        lines = [json.dumps(row | {"id": f"s{n}"}).replace('"q"', f'"q {n}"') for n in range(8)]  # other prompts
        tried.note(_try(ground, name, "\n".join(lines).encode(), "rows.jsonl", how, words, without))
    for name, (how, words, without) in _FILES.items() if files else ():
        file = _CASES / name
        if file.exists():
            tried.note(_try(ground, name, file.read_bytes(), file.name, how, words, without))
    return tried


def _try(
    ground: Ground, name: str, content: bytes, file: str, how: str, words: tuple[str, ...], without: tuple[str, ...]
) -> str | None:
    """Run one command on rows; say what it did not say, or None."""
    place = ground.place()
    (place / file).write_bytes(content)
    command = ["data", "show", "--model", str(ground.model), "--data", file, "--limit", "8"]
    if how != "show":
        command = training(how, ground, "out", steps=1)
        command[command.index("--data") + 1] = file
        command[command.index("--split") + 1] = "first-1"
    ended = ground.alignkit(command, place)
    shutil.rmtree(place)
    text = " ".join(ended.text.split())
    missed = [word for word in words if not any(one in text for one in word.split("|"))]
    if (problem := ended.problem(name)) is not None or not (missed or any(word in text for word in without)):
        return problem
    return f"{name}: exit {ended.code}, and no word of {' or '.join(missed) or 'it'}: {text[-200:]}"
