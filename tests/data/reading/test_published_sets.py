"""Rows of our own in the columns of published data sets: read right, or refused with what to do, which then works."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest

from alignkit.data.reading.rows import to_row, unusable_reason
from alignkit.errors import InputError
from alignkit.units import Chosen, Pairs

Q, YES, NO = "Name a river.", "The Rhine.", "Rivers are long."
USER, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", Q), ("assistant", YES), ("assistant", NO)))
HUMAN, GPT = {"from": "human", "value": Q}, {"from": "gpt", "value": YES}
PAIR, ANSWER, BRIEF = [Q, YES, NO], [Q, YES, None], ["Be brief.", Q, YES]


class Published(NamedTuple):
    """A row; what is said of it as it is ("" where it is read); the columns that are then named; what is read."""

    row: dict[str, Any]
    refused: str
    columns: dict[str, str]
    read: list[str | None] | str


def unread(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "")


UNREAD_TURN = {"country": "DE", "hashed_ip": "x", "header": {"a": "b"}, "redacted": False, "toxic": False}
RATED = {"system": "Be brief.", "input": Q, "chosen": YES, "rejected": NO, "status": "unchanged"}
SETS = {
    "SHP": Published(
        {"history": Q, "human_ref_A": YES, "human_ref_B": NO, "labels": 1, "score_A": 9, "score_B": 2},
        "'human_ref_A': which of these answers is the better one is not read",
        {"prompt": "history", "chosen": "human_ref_A", "rejected": "human_ref_B", **unread("history")},
        "'labels' beside 'chosen' and 'rejected'",
    ),
    "HelpSteer2": Published(
        {"prompt": Q, "response": YES, "helpfulness": 4, "verbosity": 1},
        "no chosen answer; 'response': .*--columns completion=response",
        {"completion": "response"},
        ANSWER,
    ),
    "HelpSteer2 preference": Published(
        {"prompt": Q, "response_1": YES, "response_2": NO, "preference_strength": -2},
        "'response_1': which of these",
        {"chosen": "response_1", "rejected": "response_2"},
        "'preference_strength' beside 'chosen' and 'rejected'",
    ),
    "HelpSteer3": Published(
        {"context": [USER], "response1": YES, "response2": NO, "overall_preference": -2},
        "'context': .*--columns prompt=context",
        {"prompt": "context"},
        "'response1': which of these",
    ),
    "dpo-mix-7k": Published(
        {"chosen": [USER, GOOD], "rejected": [USER, BAD], "chosen_rating": 5.0, "rejected_rating": 2.0}, "", {}, PAIR
    ),
    "capybara-dpo": Published(
        {"conversation": [{"input": Q, "output": NO}], "prompt": Q, "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        "'conversation': its turns are not read",
        unread("conversation"),
        PAIR,
    ),
    "orca_dpo_pairs": Published(
        {"system": "Be brief.", "question": Q, "chosen": YES, "rejected": NO}, "", {}, ["Be brief.", *PAIR]
    ),
    "tulu-3-preference": Published(
        {"id": "1", "prompt": Q, "chosen": [USER, GOOD], "rejected": [USER, BAD], "chosen_model": "m"}, "", {}, PAIR
    ),
    "chatbot arena": Published(
        {"winner": "model_b", "conversation_a": [USER, BAD], "conversation_b": [USER, GOOD], "turn": 1},
        "'conversation_a': which of these",
        {"chosen": "conversation_b", "rejected": "conversation_a"},
        "'winner' beside 'chosen' and 'rejected'",
    ),
    "Nectar": Published(
        {"prompt": f"\n\nHuman: {Q}\n\nAssistant: ", "answers": [{"answer": YES, "rank": 1.0}], "turns": 1},
        "no chosen answer; 'answers': lists of answers are not read; write the best one as chosen",
        {},
        "'answers'",
    ),
    "glaive v2": Published({"system": "SYSTEM: x", "chat": "USER: a\n\nASSISTANT: b"}, "'chat'.*as messages", {}, "'c"),
    "xlam": Published(
        {"query": Q, "answers": '[{"name": "f"}]', "tools": '[{"name": "f"}]'},
        "'query': .*--columns prompt=query",
        {"prompt": "query"},
        "no chosen answer; 'answers'",
    ),
    "gsm8k": Published({"question": Q, "answer": YES}, "--columns completion=answer", {"completion": "answer"}, ANSWER),
    "MATH": Published(
        {"problem": Q, "solution": YES, "level": "Level 5"},
        "--columns prompt=problem, and 'solution': .*--columns completion=solution",
        {"prompt": "problem", "completion": "solution"},
        ANSWER,
    ),
    "s1K": Published(
        {"question": Q, "solution": YES, "thinking_trajectories": ["Hm."], "cot": None},
        "'thinking_trajectories': whose thoughts",
        {"completion": "solution", **unread("thinking_trajectories")},
        ANSWER,
    ),
    "Magpie": Published({"instruction": Q, "response": YES, "conversations": [HUMAN, GPT]}, "", {}, ANSWER),
    "dolly": Published(
        {"instruction": Q, "context": "Of Egypt.", "response": YES, "category": "closed_qa"},
        "'context': it is no part of the prompt",
        {"input": "context", "output": "response"},
        [f"{Q}\n\nOf Egypt.", YES, None],
    ),
    "FLAN": Published(
        {"inputs": Q, "targets": YES, "_task_name": "x"},
        "--columns prompt=inputs, and 'targets': .*--columns completion=targets",
        {"prompt": "inputs", "completion": "targets"},
        ANSWER,
    ),
    "no_robots": Published({"prompt": Q, "prompt_id": "p", "messages": [USER, GOOD]}, "", {}, ANSWER),
    "WildChat": Published(
        {"conversation": [{**USER, **UNREAD_TURN}, {**GOOD, **UNREAD_TURN}], "turn": 1},
        "'conversation': .*--columns messages=conversation",
        {"messages": "conversation", **unread(*(f"message.{name}" for name in UNREAD_TURN))},
        ANSWER,
    ),
    "PKU-SafeRLHF": Published(
        {"prompt": Q, "response_0": YES, "response_1": NO, "better_response_id": 1, "safer_response_id": 1},
        "'response_0': which of these",
        {"chosen": "response_0", "rejected": "response_1"},
        "'better_response_id' beside 'chosen' and 'rejected'",
    ),
    "LMSYS-Chat-1M": Published(
        {"conversation": [USER, GOOD], "model": "m", "language": "English", "openai_moderation": [], "redacted": False},
        "'conversation': .*--columns messages=conversation",
        {"messages": "conversation"},
        ANSWER,
    ),
    "OASST": Published(
        {"message_id": "1", "parent_id": None, "text": Q, "role": "prompter", "labels": {"name": ["spam"]}},
        "'text': answers to prompts are trained",
        {},
        "'text'",
    ),
    "WebGPT": Published(
        {"question": {"full_text": Q}, "answer_0": YES, "answer_1": NO, "score_0": 1, "score_1": -1},
        "'answer_0': which of these",
        unread("answer_0", "answer_1"),
        "unknown row shape",
    ),
    "UltraChat": Published({"id": "0", "data": [Q, YES]}, "'data': .*as messages with role and content", {}, "'data'"),
    "HH red team": Published(
        {"transcript": f"\n\nHuman: {Q}", "rating": 4.0}, "unknown row shape.*transcript", {}, "tr"
    ),
    "Aya": Published(
        {"inputs": Q, "targets": YES}, "prompt=inputs", {"prompt": "inputs", "completion": "targets"}, ANSWER
    ),
    "smoltalk2": Published(
        {"messages": [USER, GOOD], "chat_template_kwargs": {"enable_thinking": False}, "source": "s"}, "", {}, ANSWER
    ),
    "OpenHermes": Published(
        {"conversations": [{**HUMAN, "weight": None}, {**GPT, "weight": None}], "system_prompt": None, "id": None},
        "",
        {},
        ANSWER,
    ),
    "openai tldr": Published(
        {"prompt": Q, "label": YES}, "no chosen answer", {"completion": "label", **unread("label")}, ANSWER
    ),
    "Nemotron": Published(
        {"input": [USER], "output": YES, "reasoning": "on", "system_prompt": "Be brief."},
        "'reasoning': whose thoughts",
        unread("reasoning"),
        [*BRIEF, None],
    ),
    "OpenOrca": Published(
        {"system_prompt": "Be brief.", "question": Q, "response": YES},
        "--columns completion=response",
        {"completion": "response"},
        [*BRIEF, None],
    ),
    "Code-Preference-Pairs": Published(
        {"input": Q, "accepted": YES, "rejected": NO},
        "only a rejected one; 'accepted': .*--columns chosen=accepted",
        {"chosen": "accepted"},
        PAIR,
    ),
    "UltraInteract": Published(
        {"trajectory": [{"from": "user", "value": Q}], "chosen": YES, "rejected": NO},
        "no 'prompt'; 'trajectory': .*--columns prompt=trajectory",
        {"prompt": "trajectory"},
        PAIR,
    ),
    "torchtune preference": Published(
        {"prompt": Q, "chosen_conversations": [USER, GOOD], "rejected_conversations": [USER, BAD]}, "", {}, PAIR
    ),
    "medical-o1": Published(
        {"Question": Q, "Complex_CoT": "Hm.", "Response": YES},
        "'Question': did you mean 'question'.*--columns question=Question",
        {"question": "Question", "completion": "Response"},
        ANSWER,
    ),
    "stack-exchange-paired": Published(
        {"question": Q, "response_j": YES, "response_k": NO},
        "'response_j': which of these",
        {"chosen": "response_j", "rejected": "response_k"},
        PAIR,
    ),
}


def read(row: dict[str, Any], columns: dict[str, str], *, is_pair: bool) -> list[str | None] | str:
    """The texts of a row, its prompt's first; or why it cannot be used."""
    try:
        found = to_row(row, where="here", columns=columns)
    except InputError as error:
        return str(error)
    reason = unusable_reason(found, Pairs() if is_pair else Chosen())
    if reason is not None:
        return reason
    answers = [None if side is None else str(side[-1]["content"]) for side in (found.chosen, found.rejected)]
    return [*(str(turn["content"]) for turn in found.prompt), *answers]


@pytest.mark.parametrize("published", SETS.values(), ids=SETS.keys())
def test_a_published_row_is_read_right_or_its_refusal_says_what_works(published: Published) -> None:
    is_pair = isinstance(published.read, list) and published.read[-1] is not None
    if published.refused:
        said = read(published.row, {}, is_pair=is_pair)
        assert isinstance(said, str) and re.search(published.refused, said), said
    found = read(published.row, published.columns, is_pair=is_pair)
    if isinstance(published.read, str):
        assert isinstance(found, str) and published.read in found, found
    else:
        assert found == published.read


@pytest.mark.parametrize(("generations", "scores"), [([NO, YES], (9.0, 2.0)), ([YES, NO], (2.0, 9.0))])
def test_ratings_are_in_the_order_of_the_generations_beside_them(
    generations: list[str], scores: tuple[float, float]
) -> None:
    row = to_row({**RATED, "generations": generations, "rating": [2.0, 9.0]}, where="here")
    assert row.scores == scores
