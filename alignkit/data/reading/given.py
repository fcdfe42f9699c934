"""What a row gives, and what is read out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignkit.data.reading.cells import is_missing, is_text_of_missing
from alignkit.data.reading.messages import Messages, read_messages
from alignkit.errors import InputError

UNREAD = "name the one to read in [data.columns], and leave the other unread by --ignore-fields {}"
"""What to do about two fields for one thing; the name of the other is to be put in."""


class Split(NamedTuple):
    """What a row's fields say.

    Args:
        prompt: messages before the answer.
        chosen, rejected: the answers, None where there is none.
        is_conversation: a list of turns whose assistant turns are all scored.
        not_a_pair: why chosen and rejected are no preference.
        label: whether the one answer is good, where the row has a label.
    """

    prompt: Messages
    chosen: Messages | None
    rejected: Messages | None
    is_conversation: bool = False
    not_a_pair: str | None = None
    label: bool | None = None


class Given:
    """A row's fields.

    Args:
        fields: all of them.
        where: "FILE, line N", for errors.
        columns: our name = the file's name.
    """

    def __init__(self, fields: Mapping[str, Any], where: str, columns: Mapping[str, str] | None) -> None:
        self.fields, self.where, self.columns = fields, where, columns
        self.given = {name: value for name, value in fields.items() if type(value) is str or not is_missing(value)}

    def one_of(self, names: Sequence[str]) -> str | None:
        """The name under which a thing is given, an empty list being nothing; two that differ are refused."""
        found = [name for name in names if name in self.given and self.given[name] not in ([], ())]
        for other in found[1:]:
            if self.given[other] != self.given[found[0]]:
                unread = UNREAD.format(other)
                raise InputError(f"{self.where}: the row has both {found[0]!r} and {other!r}: {unread}")
        return found[0] if found else None

    def read(self, name: str, *, role: str = "user") -> Messages:
        """The messages that a field holds; `role` is whose text it is where it is text."""
        done = "answered" if role == "assistant" else "asked"
        also = (
            f"take such rows out, write what was {done}, or, where this text was, write it as a message of the {role}"
        )
        self.refuse_missing(name, self.given[name], also)
        return read_messages(self.given[name], self.where, name, role=role, columns=self.columns)

    def refuse_missing(self, name: str, value: Any, instead: str = "") -> None:
        """Refuse a text that is what tables write for a missing cell, wherever text is read.

        Args:
            name: the field's.
            instead: what to do; by default to write null, or to leave the field unread.
        """
        if isinstance(value, str) and is_text_of_missing(value):
            instead = instead or f"write null, or leave the field unread by --ignore-fields {name}"
            raise InputError(f"{self.where}: {name!r} is {value!r}, as tables write a missing cell; {instead}")
