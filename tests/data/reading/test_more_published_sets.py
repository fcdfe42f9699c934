"""Further rows of our own in the columns of published data sets, as files: what is read, and what is said of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from alignkit.data.reading.read import Source
from alignkit.data.reading.rows import Row, unusable_reason
from alignkit.errors import InputError
from alignkit.units import Chosen, Labelled, Pairs, Unit

Q, YES, NO = "Name a river.", "The Rhine.", "Rivers are long."
USER, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", Q), ("assistant", YES), ("assistant", NO)))
HUMAN, GPT = {"from": "human", "value": Q}, {"from": "gpt", "value": YES}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": "1"}}\n</tool_call>'
TOOL = json.dumps([{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}])
ASKED = {"from": "function_call", "value": '{"name": "f", "arguments": {}}'}
PAIR, ANSWER = [Q, YES, NO], [Q, YES, None]


class Read(NamedTuple):
    """The texts of the prompt, the chosen and the rejected answer; what is said of the row; its scores."""

    texts: list[str | None]
    said: str = ""
    scores: tuple[float, float] | None = None


SETS: dict[str, tuple[dict[str, Any], Read | str]] = {
    "kto-mix-15k": ({"prompt": Q, "completion": [GOOD], "label": True, "rating": 4.5}, Read(ANSWER)),
    "ultrafeedback kto": (
        {
            "prompt": Q,
            "completion": NO,
            "label": False,
            "average_rating": 2.5,
            "annotations": {"honesty": {"Type": []}},
        },
        Read([Q, None, NO]),
    ),
    "orpo-dpo-mix-40k": ({"chosen": [USER, GOOD], "rejected": [USER, BAD], "prompt": Q, "question": Q}, Read(PAIR)),
    "toxic rows of it": (
        {"chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD], "prompt": Q, "question": None},
        Read(["Be brief.", *PAIR]),
    ),
    "distilabel pairs": (
        {
            "instruction": Q,
            "generations": [NO, YES],
            "distilabel_metadata": {"raw_input_ultra_feedback_0": [{"role": "user", "content": "Judge."}]},
            "ratings": [1, 5],
            "prompt": Q,
            "chosen": [USER, GOOD],
            "chosen_rating": 5,
            "rejected": [USER, BAD],
            "rejected_rating": 1,
        },
        Read(PAIR, scores=(5, 1)),
    ),
    "distilabel-intel-orca": (
        {
            "system": "Be brief.",
            "input": Q,
            "chosen": YES,
            "rejected": NO,
            "generations": [YES, NO],
            "order": ["chosen", "rejected"],
            "labelling_prompt": [{"role": "system", "content": "Judge."}],
            "rating": [8.0, 3.0],
            "status": "swapped",
            "original_chosen": NO,
            "chosen_score": 8.0,
        },
        Read(["Be brief.", *PAIR], scores=(8, 3)),
    ),
    "distilabel generations": (
        {"instruction": Q, "generations": [YES, NO], "ratings": [5, 1], "generation_models": ["a", "b"]},
        "'generations': lists of answers are not read; write the best one as chosen",
    ),
    "HelpSteer3 edits": (
        {"context": [USER], "original_response": NO, "edited_response": YES},
        "'context': .*--columns prompt=context",
    ),
    "HelpSteer3 as pairs": ({"chosen": [USER, GOOD], "rejected": [USER, BAD], "margin": 2}, "'margin' is not read"),
    "BeaverTails": (
        {"prompt": Q, "response": NO, "category": {"privacy": True}, "is_safe": False},
        "no chosen answer; 'response': .*--columns completion=response",
    ),
    "SlimOrca": (
        {"conversations": [{"from": "system", "value": "Be brief."}, {**HUMAN, "weight": 0}, {**GPT, "weight": 1}]},
        Read(["Be brief.", *ANSWER]),
    ),
    "oasst pairs": ({"lang": "en", "prompt": [USER], "chosen": GOOD, "rejected": BAD}, Read(PAIR)),
    "oasst trees": (
        {"message_tree_id": "1", "prompt": {"text": Q, "role": "prompter", "replies": []}},
        "'prompt': a message needs 'role' and 'content'",
    ),
    "guanaco": ({"text": f"### Human: {Q}### Assistant: {YES}"}, "'text': answers to prompts are trained"),
    "Magpie": (
        {"instruction": Q, "response": YES, "conversations": [HUMAN, GPT], "instruct_reward": -3.2},
        Read(ANSWER, "'instruct_reward', which may say how good the answer is"),
    ),
    "Magpie pairs": (
        {"instruction": Q, "chosen": [USER, GOOD], "rejected": [USER, BAD], "chosen_score": 0.9, "rejected_score": 0.1},
        Read(PAIR, scores=(0.9, 0.1)),
    ),
    "tulu-3 pairs with ratings": (
        {"id": "1", "chosen": [USER, GOOD], "rejected": [USER, BAD], "chosen_rating": 5, "rejected_rating": 3},
        Read(PAIR, scores=(5, 3)),
    ),
    "OLMo pairs": (
        {"chosen": [USER, {**GOOD, "function_calls": None}], "rejected": [USER, BAD], "prompt": Q},
        Read(PAIR),
    ),
    "hermes-function-calling": (
        {
            "conversations": [
                {"from": "system", "value": "<tools></tools>"},
                HUMAN,
                {"from": "gpt", "value": CALL},
                {"from": "tool", "value": "<tool_response>\n3\n</tool_response>"},
                GPT,
            ],
            "category": "x",
        },
        Read(
            ["<tools></tools>", Q, CALL, "<tool_response>\n3\n</tool_response>", YES, None],
            "results of tools that begin with '<tool_response>'",
        ),
    ),
    "APIGen-MT": (
        {"conversations": [HUMAN, ASKED, {"from": "observation", "value": "3"}, GPT], "tools": TOOL, "system": "Be."},
        Read(["Be.", Q, "", "3", YES, None]),
    ),
    "ToolACE": (
        {
            "system": "Be.",
            "conversations": [
                {"from": "user", "value": Q},
                {"from": "assistant", "value": "[f(x=1)]"},
                {"from": "tool", "value": "3"},
                {"from": "assistant", "value": YES},
            ],
        },
        Read(["Be.", Q, "[f(x=1)]", "3", YES, None]),
    ),
    "When2Call pairs": (
        {"tools": [json.loads(TOOL)[0]], "messages": [USER], "chosen_response": GOOD, "rejected_response": BAD},
        Read(PAIR),
    ),
    "smoltalk calls": ({"messages": [SYSTEM, USER, {**GOOD, "content": CALL}]}, Read(["Be brief.", Q, CALL, None])),
    "OpenThoughts": (
        {"system": "Be brief.", "conversations": [{"from": "user", "value": Q}, {"from": "assistant", "value": YES}]},
        Read(["Be brief.", *ANSWER]),
    ),
    "OpenThoughts, taken apart": (
        {"problem": Q, "deepseek_reasoning": "Hm.", "deepseek_solution": YES},
        "'deepseek_reasoning': whose thoughts these are is not said",
    ),
    "Mixture-of-Thoughts": (
        {"messages": [USER, {**GOOD, "content": f"<think>\nHm.\n</think>\n\n{YES}"}], "num_tokens": 9},
        Read([Q, f"<think>\nHm.\n</think>\n\n{YES}", None]),
    ),
    "OpenR1-Math": (
        {"problem": Q, "answer": "4", "generations": [YES], "messages": [USER, GOOD]},
        Read(ANSWER, "'answer' beside 'messages', from which the answer is read"),
    ),
    "s1K-1.1": (
        {"question": Q, "solution": YES, "deepseek_thinking_trajectory": "Hm.", "deepseek_attempt": YES},
        "'deepseek_thinking_trajectory': whose thoughts",
    ),
    "AM-DeepSeek-R1": (
        {"messages": [{**USER, "info": {"source": "s"}}, {**GOOD, "info": {"answer_content": YES}}]},
        "a message has the field 'info': .*--ignore-fields message.info",
    ),
    "dolphin-r1": ({"messages": [USER], "reasoning": "Hm.", "answer": YES}, "'reasoning': whose thoughts"),
    "natural_reasoning": (
        {"question": Q, "reference_answer": "4", "responses": [{"response": YES}]},
        "'responses': lists of answers are not read",
    ),
    "arena, 55k": (
        {"prompt": json.dumps([Q]), "response_a": json.dumps([YES]), "response_b": "[]", "winner_model_a": 1},
        "'response_a': which of these answers is the better one is not read",
    ),
    "RewardBench 2": ({"prompt": Q, "chosen": [YES], "rejected": [NO, "x"]}, "'chosen' is a list with"),
    "summarize_from_feedback": ({"info": {"post": Q}, "summaries": [{"text": YES}], "choice": 0}, "'summaries': lists"),
    "H4's stack-exchange": ({"question": Q, "answers": [{"text": YES, "pm_score": 3}]}, "'answers': lists of answers"),
    "LIMA": ({"conversations": [Q, YES], "source": "s"}, "'conversations' is a list with 'Name a river.' in it"),
    "math-shepherd": ({"input": Q, "label": f"{Q} +", "task": "math"}, "unknown row shape; fields found: input, label"),
    "step-dpo": ({"prompt": Q, "prefix": "So", "chosen": YES, "rejected": NO}, "'prefix': it is no part of the prompt"),
    "NeMo RL pairs": (
        {"context": [USER], "completions": [{"rank": 0, "completion": [GOOD]}, {"rank": 1, "completion": [BAD]}]},
        "'context': .*--columns prompt=context",
    ),
    "NeMo Aligner": (
        {"mask": "User", "system": "", "conversations": [{"from": "User", "value": Q}]},
        "'mask': which tokens are scored",
    ),
    "ms-swift's old pairs": (
        {"query": Q, "response": YES, "rejected_response": NO, "history": []},
        "'rejected_response' holds only the answer and there is no 'prompt'; 'query': .*--columns prompt=query",
    ),
    "Unsloth's Alpaca": ({"instruction": Q, "input": "", "output": YES, "text": f"{Q} {YES}"}, Read(ANSWER)),
    "OpenAI's DPO": (
        {"input": {"messages": [USER]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
        Read(PAIR),
    ),
    "Gemini": (
        {"contents": [{"role": "user", "parts": [{"text": Q}]}, {"role": "model", "parts": [{"text": YES}]}]},
        "'contents': it is not read under this name; write it as messages with role and content",
    ),
    "Bedrock": (
        {"messages": [{"role": "user", "content": [{"text": Q}]}, {"role": "assistant", "content": [{"text": YES}]}]},
        "as parts that have a type",
    ),
    "Anthropic's calls": (
        {"messages": [USER, {"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": {}}]}]},
        "a part of type 'tool_use'",
    ),
    "Fireworks": ({"messages": [USER, GOOD], "weight": 0.5}, "'weight': weights of rows are not read"),
    "Argilla 2": (
        {"status": "completed", "prompt": Q, "completion": YES, "rating.responses": [1]},
        Read(ANSWER, "'rating.responses', which may say how good the answer is"),
    ),
}


def read(row: dict[str, Any], folder: Path) -> Row | str:
    """The only row of a file; or why it is refused, or cannot be used."""
    (folder / "set.jsonl").write_text(json.dumps(row) + "\n")
    try:
        (found,) = Source(str(folder / "set.jsonl")).rows()
    except InputError as refused:
        return str(refused)
    is_pair = found.chosen is not None and found.rejected is not None
    unit: Unit = Labelled() if found.label is not None else Pairs() if is_pair else Chosen()
    return unusable_reason(found, unit) or found


@pytest.mark.parametrize(("row", "expected"), SETS.values(), ids=SETS.keys())
def test_a_published_row_is_read_right_or_said(
    row: dict[str, Any], expected: Read | str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = read(row, tmp_path)
    if isinstance(expected, str):
        assert isinstance(found, str) and re.search(expected, found), found
        return
    assert isinstance(found, Row) and found.scores == expected.scores
    answers = [None if side is None else side[-1]["content"] for side in (found.chosen, found.rejected)]
    assert [*(turn["content"] for turn in found.prompt), *answers] == expected.texts
    said = [record.message for record in caplog.records]
    assert len(said) == bool(expected.said) and all(re.search(expected.said, line) for line in said)
