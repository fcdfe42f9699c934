"""The fields of rows and messages that change what a row means: which are read, which do no harm, which are refused.

A field that is not in these tables is a column of the user's own in a row, and an error in a message: a message's
fields decide what the model sees of it. What is refused is refused only where it holds something; null, NaN, empty
text and empty lists say nothing. `[data.columns]` leaves a field unread: `tools = ""`, and in messages
`"message.name" = ""`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from alignkit.display import shortened
from alignkit.errors import InputError

CHOSEN = ("chosen", "chosen_response", "chosen_messages", "preferred_output")
REJECTED = ("rejected", "rejected_response", "rejected_messages", "non_preferred_output")
CONVERSATION = ("messages", "conversations")
PROMPT = ("prompt", "instruction", "question", "input")
SYSTEM = ("system", "system_prompt")
LABEL = ("label", "kto_tag", "kto_label", "desirable", "is_desirable", "is_positive", "labels")
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("rating_chosen", "rating_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
    ("chosen_reward", "rejected_reward"),
    ("reward_chosen", "reward_rejected"),
)
"""Names under which data sets keep the scores of the two answers; equal scores are a tie."""
RATINGS = ("rating", "ratings", "scores")  # both scores in a list, the chosen one's first
TIED = ("tie", "is_tie")  # true means a tie; so does status "tie"
PAIR_REFUSED = ("preference", "swapped", *LABEL)
"""Fields that say of a pair which answer is the better one: nobody knows whether they mean `chosen`."""
_THOUGHTS = "thoughts beside an answer are not rendered"
_TURNS = "it is no part of the prompt"
_SCORED = "which tokens are scored is said by weights of messages and --train-on"
_WEIGHTS = "weights of rows are not read"
_SYSTEM = "the system message is 'system'"
ROW_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("tools", "functions", "available_tools"), "tools are not rendered"),
    **dict.fromkeys(("tool_calls", "function_call"), "tool calls are not rendered"),
    **dict.fromkeys(("image", "images", "image_path", "image_url", "pixel_values"), "pictures are not read"),
    **dict.fromkeys(("audio", "audios", "audio_path", "audio_url"), "sound is not read"),
    **dict.fromkeys(("video", "videos", "video_path", "video_url"), "videos are not read"),
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking", "thought", "thoughts", "cot"), _THOUGHTS),
    **dict.fromkeys(("Complex_CoT", "chain_of_thought"), _THOUGHTS),
    **dict.fromkeys(("chat_template_kwargs", "enable_thinking"), "template values of one row are not read"),
    "negative_messages": "lists of bad answers are not read",
    **dict.fromkeys(("loss_weight", "sample_weight", "weight"), _WEIGHTS),
    "margin": "margins of pairs are not read",
    **dict.fromkeys(("train", "training", "trainable"), "whether a row is trained on is not read"),
    **dict.fromkeys(("loss_mask", "masked", "mask_history", "train_on_last"), _SCORED),
    **dict.fromkeys(("train_on_input", "train_on_inputs", "roles_to_train"), _SCORED),
    **dict.fromkeys(("system_message", "system_instruction", "instructions"), _SYSTEM),
    **dict.fromkeys(("context", "documents", "passages", "conversation", "dialogue", "dialog"), _TURNS),
    **dict.fromkeys(("past", "chat_history", "examples", "prefix"), _TURNS),
}
"""Fields of a row that would change what is trained, with what is not done with them."""
_NEUTRAL: Mapping[str, object] = {
    "loss_weight": 1,
    "sample_weight": 1,
    "weight": 1,
    "train": True,
    "training": True,
    "trainable": True,
    "margin": 0,
}
_ENDS = ("_reasoning", "_reasoning_content", "_thinking")  # chosen_reasoning and the like
_MEAN_BY_FALSE = frozenset({"train", "training", "trainable", "enable_thinking"})
SCORED = frozenset({*RATINGS, *TIED, "status"} | {name for pair in SCORES for name in pair})
SPECIAL = frozenset(
    {*CHOSEN, *REJECTED, *CONVERSATION, *PROMPT, *SYSTEM, *PAIR_REFUSED}
    | {"output", "completion", "completions", "history"}
) - {"prompt", "chosen", "rejected"}
"""Fields whose presence says that a row is not just prompt, chosen and rejected."""
_BY_LOWER = {name.lower(): name for name in (*ROW_REFUSED, *SCORED, *SPECIAL, "prompt", "chosen", "rejected")}

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
TOOL_ROLES = frozenset(
    {
        "tool",
        "function",
        "function_call",
        "function_response",
        "observation",
        "tool_call",
        "tool_response",
        "tool_result",
        "ipython",
    }
)
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


@lru_cache(maxsize=4096)
def suspects(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Of a row's field names, those to be looked at, each with why."""
    found = []
    for name in names:
        why = ROW_REFUSED.get(name)
        known = _BY_LOWER.get(str(name).lower())
        if why is None and str(name).lower().endswith(_ENDS):
            why = _THOUGHTS
        if why is None and known is not None and known != name:
            why = f"did you mean {known!r}? Only names written so are read"
        if why is not None:
            found.append((name, why))
    return tuple(found)


def refuse_fields(fields: Mapping[str, Any], where: str, columns: Mapping[str, str] | None = None) -> None:
    """Refuse a row with a field that would change what is trained and is not read.

    Args:
        columns: our name = the file's name; what is read under another name is not refused.

    Raises:
        InputError: names the field, and how to leave it unread.
    """
    for name, why in suspects(tuple(fields)):
        value = fields[name]
        if says_nothing(value) and not (value is False and name in _MEAN_BY_FALSE):
            continue
        if name in _NEUTRAL and isinstance(value, (bool, int, float)) and value == _NEUTRAL[name]:
            continue
        if columns and name in columns.values():
            continue
        raise InputError(
            f"{where}: the row has {name!r}: {why}; take such rows out, or leave the field unread by --columns {name}="
        )


def shown(value: object) -> str:
    """A value in at most 80 characters, for messages."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return shortened(text, 80)


def kind_of(value: object) -> str:
    """A value's kind in words, for messages."""
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    return f"the number {shown(value)}" if isinstance(value, (int, float)) else shown(value)
