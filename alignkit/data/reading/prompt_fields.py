"""The prompt that a row's fields hold: `prompt`, or `instruction` and `input`, with `history` and `system` before."""

from __future__ import annotations

from alignkit.data.reading.cells import kind_of, says_nothing, shown
from alignkit.data.reading.fields import SHAPE, names
from alignkit.data.reading.given import UNREAD, Given
from alignkit.data.reading.messages import Message, Messages, read_messages
from alignkit.data.reading.written_turns import read_transcript_prompt, refuse_written_turns
from alignkit.errors import InputError

_SYSTEM = names(SHAPE, "system")
_NO_PROMPT = "take such rows out, write what was asked, or, where this text was, write it as a message of the user"


def prompt_field(row: Given, name: str) -> Messages:
    """Read a prompt: text (also a transcript that stops before the answer), or messages, with `history` before."""
    transcript = read_transcript_prompt(row.given[name])
    return _history(row) + (row.read(name) if transcript is None else transcript)


def asks(row: Given) -> str:
    """The field that is the prompt where there is neither `prompt` nor `instruction`, "" where none is.

    Raises:
        InputError: there are two.
    """
    found = [name for name in ("question", "input") if not says_nothing(row.given.get(name))]
    if len(found) == 2 and row.given["question"] != row.given["input"]:
        raise InputError(f"{row.where}: the row has both 'question' and 'input': {UNREAD.format('input')}")
    return found[0] if found else ""


def instruction(row: Given) -> Messages:
    """`instruction` and `input`, which are text, with `history` before."""
    parts = []
    for name in ("instruction", "input"):
        value = row.given.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            if name == "instruction":
                return prompt_field(row, name)
            raise InputError(f"{row.where}: 'input' must be text, found {kind_of(value)}; write it as text")
        is_needed = name == "instruction"
        row.refuse_missing(name, value, _NO_PROMPT if is_needed else "")
        if value:
            refuse_written_turns(value, row.where, name, is_needed=is_needed)
            parts.append(value)
    text = "\n\n".join(parts)
    return (*_history(row), *(({"role": "user", "content": text},) if text else ()))


def refuse_input_beside_prompt(row: Given, *, is_answered: bool) -> None:
    """`input` belongs to `instruction`; beside a prompt nobody knows whether it belongs to that."""
    value = row.given.get("input")
    renamed = bool(row.columns) and "prompt" in (row.columns or ())
    if says_nothing(value) or not (is_answered or renamed) or value == row.given.get("prompt"):
        return
    raise InputError(
        f"{row.where}: the row has an 'input' beside its 'prompt': map the prompt to instruction to join them, or "
        "leave the one unread by --ignore-fields input"
    )


def with_system(row: Given, turns: Messages) -> Messages:
    """Put the row's system message first, where it has one beside its turns."""
    name = row.one_of([n for n in _SYSTEM if n in row.given and not says_nothing(row.given[n])])
    if name is None:
        return turns
    text = row.given[name]
    if not isinstance(text, str):
        raise InputError(
            f"{row.where}: {name!r} must be text, found {kind_of(text)}; leave it unread by --ignore-fields {name}"
        )
    row.refuse_missing(name, text)
    if not has_system(turns):
        return ({"role": "system", "content": text}, *turns)
    if turns[0]["content"].strip() != text.strip():
        raise InputError(
            f"{row.where}: {name!r} and the conversation's own system message differ: leave the one unread by "
            f"--ignore-fields {name}"
        )
    return turns


def refuse_history(row: Given) -> None:
    if not says_nothing(row.given.get("history")):
        raise InputError(
            f"{row.where}: the row has a 'history' beside a whole conversation: write its turns into the "
            "conversation, or leave it unread by --ignore-fields history"
        )


def _history(row: Given) -> Messages:
    """Turns before the question: [[question, answer], ...], or messages."""
    value = row.given.get("history")
    if says_nothing(value):
        return ()
    if not isinstance(value, (list, tuple)):
        raise InputError(_wrong_history(row))
    if all(isinstance(turn, dict) for turn in value):
        return read_messages(value, row.where, "history", columns=row.columns)
    turns: list[Message] = []
    for pair in value:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(t, str) for t in pair):
            raise InputError(_wrong_history(row))
        for text in pair:
            row.refuse_missing("history", text)
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return tuple(turns)


def _wrong_history(row: Given) -> str:
    return (
        f"{row.where}: 'history' must be a list of [question, answer], found {shown(row.given.get('history'))}; "
        "leave it unread by --ignore-fields history"
    )


def has_system(turns: Messages) -> bool:
    return bool(turns) and turns[0]["role"] == "system"
