"""Turns that are written as one text: Anthropic's transcripts are read, JSON and what a template made are refused.

Text that begins so and is no such thing stays text.
"""

from __future__ import annotations

import re
from typing import Any

from alignkit.errors import InputError

_BEFORE = frozenset("[{<H \n\r\t")
_STARTS = ("[", "{", "<|", "<s>", "<bos>", "<start_of_turn>", "<\uff5c", "Human:")
_JSON_MESSAGES = re.compile(r"\s*\[?\s*\{\s*['\"](role|from|content|value)['\"]\s*:")  # JSON, or Python's own writing
_ROLE, _CONTENT = re.compile(r"['\"](role|from)['\"]\s*:"), re.compile(r"['\"](content|value)['\"]\s*:")
_RENDERED = re.compile(
    r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\uff5cbegin\u2581of\u2581sentence\uff5c>)?\s*"
    r"(?:<\|im_start\|>(?:system|user|assistant)\n|<\|start_header_id\|>\w+<\|end_header_id\|>|\[INST\].*\[/INST\]|"
    r"<start_of_turn>(?:user|model)\n|<\|(?:system|user|assistant)\|>\s*\n|<\uff5c(?:User|Assistant)\uff5c>)",
    re.S,
)
_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


def may_be_turns(text: str) -> bool:
    """Whether a text begins as turns written as one text do; takes no time."""
    return text[:1] in _BEFORE and text.lstrip().startswith(_STARTS)


def is_json_messages(text: str) -> bool:
    """Whether a text is messages that are written as JSON, or as Python writes them."""
    if _JSON_MESSAGES.match(text) is None or text.rstrip()[-1] not in "]}":
        return False
    return _ROLE.search(text) is not None and _CONTENT.search(text) is not None


def refuse_written_turns(text: str, where: str, name: str, *, is_needed: bool = True) -> None:
    """Refuse messages that are written as JSON, and turns with the marks of a chat template.

    Args:
        is_needed: whether the field may hold messages, and the row is nothing without it.

    Raises:
        InputError: names the field.
    """
    if not may_be_turns(text):
        return
    todo = f"write it as text, or leave it unread by --ignore-fields {name}"
    if is_needed:
        todo = "write it as a list of messages, or, where it is meant as it stands, as the content of a single one"
    if is_json_messages(text):
        raise InputError(f"{where}: {name!r} holds messages written as text: {todo}")
    if _RENDERED.match(text):
        raise InputError(
            f"{where}: {name!r} begins with the marks of a chat template, which would be put around it again: {todo}"
        )


def read_transcript(text: str) -> tuple[dict[str, Any], ...] | None:
    """Read a dialogue written as one text, Anthropic's "\\n\\nHuman: ...\\n\\nAssistant: ..."; None for other texts."""
    text = text.replace("\r\n", "\n")
    found = list(_HH_TURN.finditer(text))
    if not found or text[: found[0].start()].strip() or found[0][1] != "Human":
        return None
    ends = [turn.start() for turn in found[1:]] + [len(text)]
    return tuple(
        {"role": _HH_ROLES[turn[1]], "content": text[turn.end() : end].strip()}
        for turn, end in zip(found, ends, strict=True)
    )


def read_transcript_prompt(value: Any) -> tuple[dict[str, Any], ...] | None:
    """Turns of a prompt that is written as "\\n\\nHuman: ...\\n\\nAssistant:", None for any other."""
    if not isinstance(value, str):
        return None
    value = value.replace("\r\n", "\n")
    if not value.lstrip().startswith("Human:") or not value.rstrip().endswith("\n\nAssistant:"):
        return None
    turns = read_transcript(value)
    return None if turns is None else turns[:-1]
