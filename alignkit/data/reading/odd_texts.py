"""Texts that are trained as they stand, and are probably not meant so: looked for in every row, and said once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from pydantic_core import from_json

from alignkit._native import Finder
from alignkit.data.reading.fields import FURTHER, HARMLESS, READ, SHAPE, letters, names, used
from alignkit.data.reading.messages import Message
from alignkit.data.reading.rows import Row
from alignkit.data.reading.written_turns import is_json_messages

_ENDS = ("</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<eos>", "<|return|>")
_STARTS = ("<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>", "<|startoftext|>")
_MARKS = Finder(
    (
        *("<|", "<s>", "</s>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<image>", "<video>", "<audio>"),
        *("<no", "<think", "<thought", "<reasoning", "<tool_response", "{{", "Human:"),
        *("\\u00", "<\\/"),  # some writers escape <, others /
    ),
    ignores_case=True,
)
"""What is looked for inside texts, in a row's JSON."""
_MEDIA = re.compile(r"<(?:image|video|audio)>|<\|(?:image_pad|vision_start|video_pad|audio|image)\|>")
_PLACEHOLDER = re.compile(
    r"\{\{\s*(?:name|author)\s*\}\}|<no ?input>", re.I
)  # of LLaMA-Factory's identity set, of Dolly
_OPENINGS = ("### Response:", "### Assistant:", "Assistant:", "ASSISTANT:", "<|assistant|>", "<|im_start|>assistant")
"""What a template of another kind puts where an answer begins."""
_BEGIN = frozenset(opening[:3] for opening in _OPENINGS)
_NEXT = re.compile(r"\n\nHuman:|###\s?Human:|<\|im_start\|>|<\|start_header_id\|>|<\|user\|>|<start_of_turn>")
_LIST = re.compile(r'\["(?:[^"\\]|\\.)*"(?:,\s*"(?:[^"\\]|\\.)*")*\]')
_THOUGHTS_ALONE = re.compile(r"\s*<(think|thinking|thought|reasoning)>.*</\1>\s*", re.DOTALL)
_ROLES = frozenset({"role", "from", "speaker"})
_CONTENTS = ("content", "value", "text", "utterance")
_MESSAGES = names(SHAPE, "messages")
_CONVERSATIONS = frozenset({*names(FURTHER, "contents"), "turns"})  # beside a prompt and an answer
_HOLDS_TURNS = (list, dict, str)
_SHAPE = frozenset(name for field in SHAPE for name in field.names)
_NO_TURNS = _SHAPE | used(FURTHER, HARMLESS, READ)
_SPLIT = frozenset({"test", "valid", "validation", "val", "dev", "eval", "heldout"})
_STATUS = frozenset({"discarded", "rejected", "deleted", "draft", "pending", "invalid", "failed", "flagged", "spam"})


def may_be_odd(json_: bytes | None) -> bool:
    """Whether a row's JSON holds any mark that is looked for inside texts; bytes are searched faster than texts are."""
    return json_ is None or _MARKS.is_in(json_)


def odd_texts(row: Row, columns: Mapping[str, str], *, is_marked: bool = True) -> Iterator[str]:
    """Say what is odd in a row, a clause each that begins with what rows have.

    Args:
        columns: our name = the file's name; of columns that are read, or left unread, by these nothing is said.
        is_marked: `may_be_odd` of the row.
    """
    if _looked_at(tuple(row.fields)):
        yield from _odd_columns(row, columns)
    for answer in (row.chosen, row.rejected):
        if answer:
            text = answer[-1]["content"]
            if is_marked or text[:3] in _BEGIN or text[:2] == '["':
                yield from _odd_answer(answer[-1])
            if len(answer) > 1 or len(row.prompt) > 1:
                yield from _odd_turns((*row.prompt, *answer))
    for turn in row.prompt:
        text = turn["content"]
        if is_marked or ":" in text[-3:] or text[:2] == '["':
            yield from _odd_prompt(turn)


def _odd_columns(row: Row, columns: Mapping[str, str]) -> Iterator[str]:
    split = row.fields.get("split")
    if type(split) is str and split.lower() in _SPLIT:
        yield f"the split {split!r}, and are read like all others: take them out, or into a file of their own"
    status = row.fields.get("status")
    if type(status) is str and status.lower() in _STATUS:
        yield f"the status {status!r}, and are read like all others: take them out"
    for name in _unread(tuple(row.fields)):
        value = row.fields[name]
        may_hold = type(value) in _HOLDS_TURNS and value and (type(value) is not str or value[0] in "[{")
        if may_hold and name not in columns and name not in columns.values():
            yield from _unread_turns(row, name, value)


def _unread_turns(row: Row, name: str, value: Any) -> Iterator[str]:
    """Say that a column holds turns that the row has nowhere else."""
    texts = list(_turns(value))
    if not texts and letters(name) in _CONVERSATIONS and type(value) is list:
        texts = list(_texts(value))
    if not texts:
        return
    read = {str(turn["content"]).strip() for turns in (row.prompt, row.chosen, row.rejected) for turn in turns or ()}
    if not read.issuperset(texts):
        yield (
            f"a conversation in {name!r}, whose turns are not read: map it by --columns messages={name}, or take it "
            f"out if it does not belong to the answer; --ignore-fields {name} says that it is meant so"
        )


def _turns(value: Any) -> Iterator[str]:
    """The texts of messages, in a list, in `messages` or as JSON text; of anything else none."""
    if type(value) is str:
        if is_json_messages(value):
            try:
                yield from _turns(from_json(value))
            except ValueError:  # as Python writes them
                yield value
    elif type(value) is dict:
        if not _ROLES.isdisjoint(value):
            yield from _texts(next((value[key] for key in _CONTENTS if key in value), None))
        for name in _MESSAGES:
            if type(value.get(name)) is list:
                yield from _turns(value[name])
    elif type(value) is list:
        for inner in value:
            if type(inner) is dict or type(inner) is list:
                yield from _turns(inner)


def _texts(value: Any) -> Iterator[str]:
    """Every text that there is in a value."""
    if type(value) is str:
        yield value.strip()
    elif type(value) is list:
        for inner in value:
            yield from _texts(inner)
    elif type(value) is dict:
        for name, inner in value.items():
            if name != "type":
                yield from _texts(inner)


@lru_cache(maxsize=4096)
def _looked_at(found: tuple[str, ...]) -> bool:
    """Whether a row with these field names has a column that may say something odd."""
    return "split" in found or "status" in found or bool(_unread(found))


@lru_cache(maxsize=4096)
def _unread(found: tuple[str, ...]) -> tuple[str, ...]:
    """Of a row's field names, those of which no turns are read."""
    return tuple(name for name in found if name not in _NO_TURNS)


def _odd_turns(turns: Sequence[Message]) -> Iterator[str]:
    for turn, following in pairwise(turns):
        if turn["role"] == following["role"] == "assistant" and "tool_calls" not in turn:
            yield "two turns of the assistant in a row: each is rendered as a turn of its own, nobody asking between"


def _odd_prompt(turn: Message) -> Iterator[str]:
    text = turn["content"]
    if turn["role"] == "tool" and text.lstrip().startswith("<tool_response>"):
        yield (
            "results of tools that begin with '<tool_response>', which is read as text: many templates put it around "
            "them too; take it away where yours does"
        )
    tail = text[-40:].rstrip()
    if tail.endswith(_OPENINGS) and turn["role"] == "user":
        end = next(end for end in _OPENINGS if tail.endswith(end))
        yield (
            f"prompts that end with {end!r}, where another template lets an answer begin: it is read as text, and the "
            "chat template is put around it; take it away, or write the turns as messages"
        )
    if text.lstrip()[:2] == '["' and _LIST.fullmatch(text.strip()):
        yield 'prompts that are lists of texts, ["...", ...], which are read as they stand: write the text itself'
    if text.startswith(_STARTS):
        start = next(start for start in _STARTS if text.startswith(start))
        yield f"prompts that begin with {start!r}, which is read as text, beside the template's own: take it away"
    yield from _gaps(text)


def _odd_answer(turn: Message) -> Iterator[str]:
    text = turn["content"]
    if text.endswith(_ENDS):
        end = next(end for end in _ENDS if text.endswith(end))
        yield (
            f"answers that end with {end!r}, which is trained as text, and the template's own end token behind it: "
            "take it away"
        )
    if text.startswith(_OPENINGS):
        start = next(start for start in _OPENINGS if text.startswith(start))
        yield f"answers that begin with {start!r}, which is trained as text: take it away"
    may_go_on = "Human:" in text or "<|" in text or "<start_of_turn>" in text
    if may_go_on and (turn_of_user := _NEXT.search(text)) is not None:
        yield (
            f"answers that go on with {turn_of_user[0]!r}, a turn of their own, which is trained as text: cut them "
            "before it, or write the turns as messages"
        )
    head = text.lstrip() if text[:1].isspace() else text
    if head[:2] == '["' and _LIST.fullmatch(text.strip()):
        yield 'answers that are lists of texts, ["...", ...], which are trained as they stand: write the text itself'
    if head.startswith("<think>") and "</think>" not in text:
        yield "answers that open <think> and do not close it: the model would learn to stop in its thoughts"
    elif head[:1] == "<" and _THOUGHTS_ALONE.fullmatch(text) and not turn.get("tool_calls"):
        yield "answers of thoughts alone, without a text behind them: the model would learn to stop after thinking"
    yield from _gaps(text)


def _gaps(text: str) -> Iterator[str]:
    """Say what a text holds in the place of something else; patterns are slow, so their parts are looked for first."""
    may_show = "<|" in text or "<image>" in text or "<video>" in text or "<audio>" in text
    if may_show and (media := _MEDIA.search(text)) is not None:
        yield f"{media[0]!r} in a text, which is read as it stands: pictures, sound and videos are not read"
    may_lack = "{{" in text or "<no" in text or "<No" in text or "<NO" in text
    if may_lack and (gap := _PLACEHOLDER.search(text)) is not None:
        yield f"the placeholder {gap[0]!r} in a text, which is trained as it stands: write what it stands for"
