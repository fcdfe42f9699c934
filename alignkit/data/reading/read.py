"""Reads rows from where `--data` points: files, folders, a plugin's data set, the hub, or a mixture of them.

A folder's files are read in the order of their names. Rows come one after another; what is kept of each is its id,
where ids must be told apart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.data.reading import mixing
from alignkit.data.reading.cells import says_nothing
from alignkit.data.reading.dataset import Dataset
from alignkit.data.reading.fields import (
    PROMPT_PARTS,
    SCORED,
    SHAPE,
    Field,
    FieldRefused,
    candidates,
    like_scores,
    marks,
    misspelt,
    prompt_parts,
)
from alignkit.data.reading.fields import names as names_of
from alignkit.data.reading.files import SUFFIXES, Line, files_of, is_data_file, read_file
from alignkit.data.reading.hub import hub_files
from alignkit.data.reading.keys import OwnIds
from alignkit.data.reading.messages import text_of_turn
from alignkit.data.reading.odd_texts import may_be_odd, odd_texts
from alignkit.data.reading.rows import Row, renamed, row_id, to_row
from alignkit.data.reading.said import say_once
from alignkit.data.reading.scores import lone_score, say_unreadable, unread_scores, unreadable
from alignkit.errors import InputError, UsageError, nearest
from alignkit.registry import registry

__all__ = ["SUFFIXES", "Source", "is_data", "read_rows", "refuse_among_data"]

_MOST_SHAPES = 4096  # lists of columns of which is remembered that they were looked at
_TURNS = names_of(SHAPE, "messages")
_READ_AS = {  # in the order in which one goes before another
    "prompt": ("prompt", "instruction", "question", "input", *_TURNS),
    "answer": (*names_of(SHAPE, "chosen"), *_TURNS, "output", "completion"),
}
_COUNTED_ROWS = 100_000  # read behind one with a refused field, some seconds, to say how many have it


@dataclass(frozen=True)
class Source:
    """The rows that `--data` names, to be read as often as needed, always the same and in the same order.

    Args:
        data: `--data`: FILE, folder, NAME[:PART], OWNER/NAME[:SPLIT], or several with commas and weights.
        columns: our name = the file's name.
        limit: at most this many rows, from the top.
    """

    data: str
    columns: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None

    def rows(self, *, numbered: bool = True) -> Iterator[Row]:
        """Yield the rows; those that share an id are numbered, `a`, `a#2`, ..., or they would be taken for one another.

        Where a number is an id of its own already, another is given: `a`, `a#2.1` and `a#2`.

        Args:
            numbered: False: ids stay as they are, and none need be remembered.

        Raises:
            InputError: a file is missing or unreadable, a line is not JSON, a shape is unknown, or there is no row.
            UsageError: no file, plugin or hub data set has that name.
        """
        times: dict[str, int] = {}
        numbers: OwnIds | None = None
        is_empty = True
        unreadable_names, odd_ones, looked_at = set[str](), set[str](), set[tuple[str, ...]]()
        lines = islice(_lines(self.data), self.limit)
        for number, (where, fields, json_) in enumerate(lines, start=1):
            try:
                row = to_row(fields, where=where, columns=self.columns, json_=json_)
            except FieldRefused as refused:
                raise self._counted(refused, fields, number, lines) from None
            is_empty = False
            for odd in odd_texts(row, self.columns, is_marked=may_be_odd(json_)):
                if odd not in odd_ones:
                    odd_ones.add(odd)
                    say_once(f"{self.data}: rows have {odd} (first in {where})")
            found = tuple(fields)
            if found not in looked_at:
                self._say_unread(fields)
                if len(looked_at) < _MOST_SHAPES:
                    looked_at.add(found)
            if _may_say(found):
                self._say_columns(row, found, unreadable_names)
            if numbered:
                count = times[row.id] = times.get(row.id, 0) + 1
                if count > 1:
                    numbers = numbers or self._own_ids()
                    row = dataclasses.replace(row, id=numbers.numbered(row.id, count))
            yield row
        if is_empty:
            raise InputError(f"{self.data}: no rows; give a file that holds some, or another --data")

    def _say_columns(self, row: Row, found: tuple[str, ...], unreadable_names: set[str]) -> None:
        """Say once what the row's columns, by their names, may mean beside what is read."""
        if candidates(found):
            self._say_candidates(row)
        if prompt_parts(found):
            self._say_parts(row)
        if marks(found) or marks(found, of_pair=True):
            self._say_marks(row)
        if row.rejected is not None and row.chosen is not None and row.scores is None and like_scores(found):
            for names, instead in unread_scores(row.fields, self.columns):
                said = " and ".join(map(repr, names))
                say_once(
                    f"{self.data}: rows have {said} beside 'chosen' and 'rejected', which may be their scores: not "
                    f"read; {instead}, --ignore-fields {','.join(names)} says that it is meant so"
                )
        if row.rejected is not None and not SCORED.isdisjoint(found):
            self._say_unreadable(row.fields, unreadable_names)
            if row.scores is None and (lone := lone_score(renamed(row.fields, self.columns))) is not None:
                one, other = (self.columns.get(name) or name for name in lone)
                say_once(f"{self.data}: rows have {one} and no {other}: they count as rows without scores")

    def _say_unread(self, fields: Mapping[str, Any]) -> None:
        """Say once of a column that is nearly one that is read."""
        given = fields.keys() - set(self.columns.values()) - self.columns.keys()
        for name in given:
            if (near := misspelt(name)) is not None and near not in fields:
                say_once(
                    f"{self.data}: the column {name!r} is kept and not read; did you mean {near!r}? "
                    f"--columns {near}={name} reads it, --ignore-fields {name} says that it is meant so"
                )

    def _say_unreadable(self, fields: Mapping[str, Any], names: set[str]) -> None:
        """Say once of each field of scores that it holds text that is no number; `names` were said."""
        for name, score in unreadable(renamed(fields, self.columns)):
            name = self.columns.get(name) or name
            if name not in names:
                names.add(name)
                say_once(f"{self.data}: {say_unreadable(name, score)}")

    def _say_candidates(self, row: Row) -> None:
        """Say once of a column that may be the row's answer or prompt, and says something else than the one read."""
        given = row.fields.keys() | {ours for ours, theirs in self.columns.items() if theirs in row.fields}
        for name, role in candidates(tuple(row.fields)):
            if name in self.columns or name in self.columns.values() or says_nothing(row.fields[name]):
                continue
            if role == "rejected answer":
                if row.rejected is None:
                    say_once(
                        f"{self.data}: rows have {name!r}, which is not read; --columns rejected={name} reads it as "
                        f"the rejected answer, --ignore-fields {name} says that it is meant so"
                    )
                continue
            turns = row.prompt if role == "prompt" else (row.chosen or row.rejected or ())[-1:]
            said, known = set(_texts(row.fields[name])), [text_of_turn(turn).strip() for turn in turns]
            is_known = any(text in whole for text in said for whole in known) if role == "prompt" else said & set(known)
            read = next((one for one in _READ_AS[role] if one in given), None)
            if role == "answer" and said and row.ends_with_user and any(t["role"] == "assistant" for t in row.prompt):
                say_once(
                    f"{self.data}: rows have {name!r} beside a conversation that ends with the user: it is not read as "
                    f"its answer; --columns completion={name} reads it, --ignore-fields {name} says that it is meant so"
                )
            if not said or not known or is_known or read is None:
                continue
            instead = f"--columns {read}={name}"
            if read in _TURNS:
                instead = f"--ignore-fields {read} --columns {'prompt' if role == 'prompt' else 'completion'}={name}"
            say_once(
                f"{self.data}: rows have {name!r} beside {read!r}, from which the {role} is read: it is kept for "
                f"rewards and not trained on; {instead} reads it instead, --ignore-fields {name} says that it is "
                "meant so"
            )

    def _say_parts(self, row: Row) -> None:
        """Say once of columns that may belong to what is asked, and that the prompt does not hold."""
        (part,) = PROMPT_PARTS
        for name in prompt_parts(tuple(row.fields)):
            if row.prompt and name not in self.columns and name not in self.columns.values():
                asked = "\n".join(turn["content"] for turn in row.prompt)
                if any(text not in asked for text in _texts(row.fields[name])):
                    say_once(
                        f"{self.data}: rows have {name!r}: {part.says}; {part.instead}; --ignore-fields {name} says "
                        "that it is meant so"
                    )

    def _say_marks(self, row: Row) -> None:
        """Say once of columns that may call the row's only answer a bad one, which no label does."""
        mapped = {*self.columns, *self.columns.values()}
        if row.chosen is None or row.label is not None:
            return
        if row.rejected is not None:
            for name, known in marks(tuple(row.fields), of_pair=True):
                if name not in mapped and _marks(row.fields[name], known):
                    say_once(
                        f"{self.data}: rows have {name!r} beside 'chosen' and 'rejected': {known.says}; "
                        f"{known.instead.format(name)}; --ignore-fields {name} says that it is meant so"
                    )
            return
        for name, known in marks(tuple(row.fields)):
            if name not in mapped and _marks(row.fields[name], known):
                say_once(
                    f"{self.data}: rows have {name!r}, which may say how good the answer is: it is kept for rewards "
                    "and not read as a label, so where answers are trained on, bad ones are too; "
                    f"{known.instead.format(name)}; --ignore-fields {name} says that it is meant so"
                )

    def _counted(
        self, refused: FieldRefused, fields: Mapping[str, Any], number: int, lines: Iterator[Line]
    ) -> InputError:
        """Count the refused fields of a row and of those behind it: who mends the data wants to know of all at once.

        Args:
            number: the row's, from 1.
            lines: those behind it.
        """
        times = Counter(self._refused_names(fields))
        try:
            for _, further, _ in islice(lines, _COUNTED_ROWS):
                times.update(self._refused_names(further))
                number += 1
            is_all = next(lines, None) is None
        except InputError:  # a line that is not JSON
            is_all = False
        return refused.counted(times, number, is_all=is_all)

    def _refused_names(self, fields: Mapping[str, Any]) -> list[str]:
        """The names of all of a row's fields that are refused."""
        columns, names = dict(self.columns), list[str]()
        while True:
            try:
                to_row(fields, where="", columns=columns)
            except FieldRefused as refused:
                names.append(refused.name)
                columns[refused.name] = ""
            except InputError:
                return names
            else:
                return names

    def _own_ids(self) -> OwnIds:
        """Read which of the rows' own ids look like numbered ones."""
        found = OwnIds()
        for _, fields, _ in islice(_lines(self.data), self.limit):
            found.add(row_id(fields, self.columns))
        return found

    def some(self, is_wanted: np.ndarray, times: np.ndarray, watched: dict[int, str], own_ids: OwnIds) -> Iterator[Row]:
        """Yield some of the rows, with the ids that `rows` gives them.

        Args:
            is_wanted: bool [rows].
            times: int32 [rows], how often the row's id has stood up to there.
            watched: places of rows; their names are put in.
            own_ids: all the rows' own ids, as far as they look like numbered ones.

        Raises:
            InputError, UsageError: as `rows`.
        """
        lines = islice(_lines(self.data), self.limit)
        for number, (where, fields, json_) in enumerate(lines):
            if is_wanted[number] or number in watched:
                row = to_row(fields, where=where, columns=self.columns, json_=json_)
                if times[number] > 1:
                    row = dataclasses.replace(row, id=own_ids.numbered(row.id, int(times[number])))
                if number in watched:
                    watched[number] = row.name
                if is_wanted[number]:
                    yield row

    def fingerprint(self) -> str:
        """Hash what the rows are read from: the files' bytes, or, where rows are made by a plugin, the rows."""
        digest = hashlib.sha256(repr((self.data, sorted(self.columns.items()), self.limit)).encode())
        for name, _ in mixing.parse(self.data):
            files = _files(name)
            if files is None:
                for where, fields, _ in _plugin(name):
                    digest.update(f"{where}{json.dumps(fields, sort_keys=True, default=str)}".encode())
                continue
            for file in files:
                try:
                    with open(file, "rb") as opened:
                        digest.update(file.name.encode() + hashlib.file_digest(opened, "sha256").digest())
                except OSError as error:
                    raise InputError(f"{file}: cannot be read: {error.strerror}; give a file you may read") from error
        return digest.hexdigest()


def refuse_among_data(option: str, out: Path, reads: Iterable[str | None], *, is_folder: bool = False) -> None:
    """Refuse an output that is read as rows, or would be the next time: a file read, or one in a folder that is read.

    Args:
        reads: named as `--data` is; None where there is none.
        is_folder: the output is a folder; else it is a file, and matters where its name is that of a data file.

    Raises:
        UsageError: it says which folder that is.
    """
    at = Path(os.path.realpath(out.expanduser()))
    for name in (name for data in reads if data for name, _ in mixing.parse(data)):
        read = Path(os.path.realpath(Path(name).expanduser()))
        if at == read and read.exists():
            raise UsageError(
                f"{option} {out}: rows are read from this {'file' if read.is_file() else 'folder'}; name another one"
            )
        if not read.is_dir() or not at.is_relative_to(read) or not (is_folder or is_data_file(at)):
            continue
        if not any(part.startswith(".") for part in at.relative_to(read).parts):
            raise UsageError(
                f"{option} {out}: it would stand in {name}, a folder whose files are all read as rows; name a place "
                "outside of it"
            )


def _marks(mark: Any, field: Field) -> bool:
    """Whether a mark may call an answer bad."""
    if type(mark) is bool:
        return mark is not bool(field.neutral)
    return not says_nothing(mark) and not (field.neutral == 0 and mark == 0)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a field."""
    if isinstance(value, str):
        yield value.strip()
    elif isinstance(value, (list, tuple, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


@lru_cache(maxsize=4096)
def _may_say(found: tuple[str, ...]) -> bool:
    """Whether something may be said of rows with these columns."""
    is_named = candidates(found) or prompt_parts(found) or marks(found) or marks(found, of_pair=True)
    return bool(is_named or like_scores(found)) or not SCORED.isdisjoint(found)


def read_rows(data: str, *, columns: Mapping[str, str] | None = None, limit: int | None = None) -> list[Row]:
    """Read the rows that `data` names into memory, at most `limit`. Raises as `Source.rows`."""
    return list(Source(data, columns or {}, limit).rows())


def is_data(name: str) -> bool:
    """Whether a name is a file, a folder or a plugin's data set that is here."""
    return bool(name.strip()) and (
        Path(name).expanduser().exists() or name.partition(":")[0] in registry().names("dataset")
    )


def _lines(data: str) -> Iterator[Line]:
    sources = mixing.parse(data)
    names = [name for name, _ in sources]
    weights = [weight for _, weight in sources if weight is not None]
    if weights:
        yield from mixing.mix(names, weights, _source_lines)
    else:
        for name in names:
            yield from _source_lines(name)


def _source_lines(name: str) -> Iterator[Line]:
    files = _files(name)
    if files is None:
        yield from _plugin(name)
    else:
        for file in files:
            yield from read_file(file)


def _names_beside(path: Path) -> list[str]:
    """The files and folders that lie where a path leads that is not there."""
    try:
        return [found.name for found in path.parent.iterdir() if found.is_dir() or is_data_file(found)]
    except OSError:
        return []


def _files(data: str) -> list[Path] | None:
    """Return the files that one source names, or None where it is a plugin's data set."""
    path = Path(data).expanduser()
    name, _, part = data.partition(":")
    if path.exists():
        return files_of(path)
    if name in registry().names("dataset"):
        return None
    beside = nearest(path.name, _names_beside(path), cutoff=0.8)  # most end alike
    if path.name.endswith(SUFFIXES) or data.startswith((".", "/", "~")):
        raise InputError(f"{path}: no such file or folder, and no data set that `alignkit plugins list` shows{beside}")
    if name.count("/") == 1:
        return hub_files(name, part or None)
    known = registry().names("dataset")
    meant = beside or nearest(name, known)
    raise UsageError(
        f"no data is named {data!r}{meant}; give a file, a folder, OWNER/NAME[:SPLIT] of the hub, "
        f"or one of: {', '.join(known) or 'none'}"
    )


def _plugin(data: str) -> Iterator[Line]:
    name, _, part = data.partition(":")
    part = part or "train"
    cls = registry().find("dataset", name)
    assert issubclass(cls, Dataset)
    if part not in cls.parts:
        raise UsageError(
            f"data set {name!r} has no part {part!r}{nearest(part, list(cls.parts))}; it has {', '.join(cls.parts)}"
        )
    for number, fields in enumerate(cls().rows(part), start=1):
        yield f"{name}:{part}, row {number}", fields, None
