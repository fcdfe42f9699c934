"""The fields of rows and messages that change what a row means: which are read, which do no harm, which are refused.

A field that is not in these tables is a column of the user's own in a row, and an error in a message: a message's
fields decide what the model sees of it. What is refused is refused only where it holds something; null, NaN, empty
text and empty lists say nothing. `[data.columns]` leaves a field unread: `tools = ""`, and in messages
`"message.name" = ""`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from alignkit.errors import InputError

CHOSEN = ("chosen", "chosen_response", "chosen_messages", "preferred_output")
REJECTED = ("rejected", "rejected_response", "rejected_messages", "non_preferred_output")
CONVERSATION = ("messages", "conversations")
PROMPT = ("prompt", "instruction", "question", "input")
SYSTEM = ("system", "system_prompt")
LABEL = ("label", "kto_tag")
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("rating_chosen", "rating_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
)
"""Names under which data sets keep the scores of the two answers; equal scores are a tie."""
RATINGS = "rating"  # both scores in a list, the chosen one's first
ROW_REFUSED: Mapping[str, str] = {
    "tools": "tools are not rendered",
    "functions": "tools are not rendered",
    "image": "pictures are not read",
    "images": "pictures are not read",
    "audio": "sound is not read",
    "audios": "sound is not read",
    "video": "videos are not read",
    "videos": "videos are not read",
    "reasoning_content": "thoughts beside an answer are not rendered",
    "thinking": "thoughts beside an answer are not rendered",
    "chat_template_kwargs": "template values of one row are not read",
    "negative_messages": "lists of bad answers are not read",
    "loss_weight": "weights of rows are not read",
    "sample_weight": "weights of rows are not read",
}
"""Fields of a row that would change what is trained, with what is not done with them."""
SCORED = frozenset({RATINGS} | {name for pair in SCORES for name in pair})
SPECIAL = frozenset(
    {*CHOSEN, *REJECTED, *CONVERSATION, *PROMPT, *SYSTEM, *LABEL, "output", "completion", "completions", "history"}
    | ROW_REFUSED.keys()
) - {"prompt", "chosen", "rejected"}
"""Fields whose presence says that a row is not just prompt, chosen and rejected."""

FLAGS = ("weight", "loss_weight", "loss", "train", "training", "trainable")
"""Whether a message of the assistant is scored: 1 or true, 0 or false."""
MESSAGE_READ = frozenset({"role", "from", "content", "value", *FLAGS})
MESSAGE_HARMLESS = frozenset(
    {"id", "message_id", "index", "turn", "turn_id", "turn_identifier", "model", "timestamp", "time", "date"}
    | {"created", "created_at", "create_time", "language", "lang"}
)
MESSAGE_REFUSED: Mapping[str, str] = {
    "tool_calls": "tool calls are not rendered",
    "function_call": "tool calls are not rendered",
    "tool_call_id": "tool calls are not rendered",
    "tools": "tools are not rendered",
    "reasoning_content": "thoughts beside the content are not rendered",
    "reasoning": "thoughts beside the content are not rendered",
    "thinking": "thoughts beside the content are not rendered",
    "images": "pictures are not read",
    "audio": "sound is not read",
    "refusal": "refusals beside the content are not rendered",
    "name": "names of speakers are not rendered",
}
ROLES: Mapping[str, str] = {
    "system": "system",
    "developer": "system",  # as OpenAI's newer models call it
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
TOOL_ROLES = frozenset({"tool", "function", "function_call", "function_response", "observation", "tool_call",
                        "tool_response", "tool_result", "ipython"})  # fmt: skip
TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: null, or NaN, which is how tables write it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def says_nothing(value: Any) -> bool:
    """Whether a field is there but empty: also empty text, lists, and lists written as text."""
    if is_missing(value) or value is False:
        return True
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null")
    return isinstance(value, (list, tuple, dict)) and not any(True for item in value if not is_missing(item))


def refuse_fields(fields: Mapping[str, Any], where: str) -> None:
    """Refuse a row with a field that would change what is trained and is not read.

    Raises:
        InputError: names the field, and how to leave it unread.
    """
    for name in ROW_REFUSED:
        value = fields.get(name)
        if says_nothing(value) or (name.endswith("_weight") and not isinstance(value, str) and value == 1):
            continue
        raise InputError(
            f"{where}: the row has {name!r}: {ROW_REFUSED[name]}; take such rows out, or leave the field unread by "
            f"--columns {name}="
        )


def shown(value: object) -> str:
    """A value in at most 80 characters, for messages."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def kind_of(value: object) -> str:
    """A value's kind in words, for messages."""
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    return f"the number {shown(value)}" if isinstance(value, (int, float)) else shown(value)
