"""Judgements made elsewhere: `alignkit judge --from FILE`, and AlpacaEval's two tables.

A file is CSV with a header, or JSONL. Columns:

    row                           the row's position, and its index into the difficulties; each occurs once
    baseline_chars, model_chars   characters of the two answers; both or neither
    preference                    1 the baseline wins, 2 the model wins, between them a probability; 0 and 1.5 are ties
    score_model, score_baseline   or scores of one judge, higher is better; empty where missing; beside a preference
                                  they may not name another winner, and the preference is what counts
    template, source              optional: prompts that are no independent evidence of each other

Further columns are ignored.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.errors import InputError
from alignkit.judging.length_control import Tables
from alignkit.statistics.win_rate import outcomes
from alignkit.tracking import split_lines

_PREFERENCE = ("preference",)
_SCORES = ("score_model", "score_baseline")
_LENGTHS = ("baseline_chars", "model_chars")
_OTHER_MARKS = (";", "\t", "|")  # that spreadsheets put between fields where the comma is none
_SHOWN = 60  # characters of a value
_LARGEST = 1e100  # sums of squares of numbers up to it are finite
_LARGEST_ROW = 2**53  # floats cannot tell larger whole numbers apart


@dataclass(frozen=True)
class Judgements:
    """What a file holds, all [P]: `row`, `outcome` (0 to 1, nan missing), `difference` of scores, lengths or None.

    `fields` are the other columns, for clusters; `notes` say how the file was read.
    """

    row_P: np.ndarray
    outcome_P: np.ndarray
    difference_P: np.ndarray
    model_chars_P: np.ndarray | None
    baseline_chars_P: np.ndarray | None
    fields: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()


def read_judgements(path: Path) -> Judgements:
    """Read a file of judgements.

    Raises:
        InputError: it cannot be read, lacks a column, or a value is not what its column holds; with file and line.
    """
    lines = read_lines(path, wanted="evidence that `judge --evidence` wrote, CSV or JSONL")
    columns = set(lines[0][1])
    if "row" not in columns or not (columns >= set(_PREFERENCE) or columns >= set(_SCORES)):
        raise InputError(
            f"{path}: needed are the columns row and preference, or row, score_model and score_baseline; found: "
            f"{', '.join(sorted(map(str, columns)))}"
        )
    if len(columns & set(_LENGTHS)) == 1:
        raise InputError(f"{path}: baseline_chars and model_chars belong together; give both or neither")
    row_P = _rows(lines)
    notes: tuple[str, ...] = ()
    if "preference" in columns:
        outcome_P = np.array([_preference(fields, where) for where, fields in lines])
        difference_P = outcome_P - 0.5
        if columns >= set(_SCORES):
            _refuse_contradictions(lines, outcome_P, _scored(lines)[0])
            notes = ("the column preference was read; score_model and score_baseline beside it name no other winner",)
    else:
        outcome_P, difference_P = _scored(lines)
    lengths = [None, None]
    if columns >= set(_LENGTHS):
        lengths = [np.array([_length(fields, name, where) for where, fields in lines]) for name in _LENGTHS]  # type: ignore[misc]
    fields = tuple(fields for _, fields in lines)
    return Judgements(row_P, outcome_P, difference_P, lengths[1], lengths[0], fields, notes)


def read_tables(difficulties: Path, regularisation: Path) -> Tables:
    """Read AlpacaEval's tables.

    Args:
        difficulties: columns index, instruction_difficulty; the indices are 0, 1, 2, ...
        regularisation: columns preference (0 to 1), std_delta_len, instruction_difficulty; rows with
            not_gamed_baseline true, if there are any, are no regularisation rows and are refused.

    Raises:
        InputError: as `read_judgements`.
    """
    table = read_lines(difficulties)
    _need(difficulties, table, ("index", "instruction_difficulty"))
    order = [_whole(fields, "index", where) for where, fields in table]
    if sorted(order) != list(range(len(order))):
        raise InputError(f"{difficulties}: the column index must hold 0 to {len(order) - 1}, each once")
    difficulty = np.empty(len(order))
    difficulty[order] = [_known(fields, "instruction_difficulty", where) for where, fields in table]
    gamed = read_lines(regularisation)
    names = ("std_delta_len", "instruction_difficulty", "preference")
    _need(regularisation, gamed, names)
    for where, fields in gamed:
        if str(fields.get("not_gamed_baseline", False)).lower() not in ("false", "0", "0.0"):
            raise InputError(
                f"{where}: not_gamed_baseline is {_brief(fields['not_gamed_baseline'])}; only gamed rows belong here"
            )
        if not 0 <= _known(fields, "preference", where) <= 1:
            raise InputError(f"{where}: preference is {_brief(fields['preference'])}; here it is a probability, 0 to 1")
    columns = [np.array([_known(fields, name, where) for where, fields in gamed]) for name in names]
    return Tables(difficulty, *columns)


def read_lines(path: Path, *, wanted: str = "a CSV or JSONL file") -> list[tuple[str, Mapping[str, Any]]]:
    """Every row of a CSV or JSONL file with where it stands; at least one, and no row lacks a column of the first.

    Args:
        wanted: what may be given, for whoever named a file that is not there.

    Raises:
        InputError: as `read_judgements`.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; give {wanted}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    if not text.strip():
        raise InputError(f"{path}: no rows: the file is empty; give CSV with a header, or JSONL")
    if text.lstrip().startswith("["):
        raise InputError(f"{path}: the file is a JSON list; give JSONL, one object a line, or CSV with a header")
    lines = _jsonl(path, text) if text.lstrip().startswith("{") else _csv(path, text)
    if not lines:
        raise InputError(
            f"{path}: one line alone, {_brief(text.strip())}: a header without rows; give CSV with a header, or JSONL"
        )
    return lines


def _csv(path: Path, text: str) -> list[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    lines: list[tuple[str, Mapping[str, Any]]] = []
    try:
        names = reader.fieldnames or ()
        if len(names) == 1 and (found := [mark for mark in _OTHER_MARKS if mark in names[0]]):
            raise InputError(
                f"{path}: the header is one column, {_brief(names[0])}: its fields are parted by {found[0]!r}; save "
                "the file with commas between them"
            )
        for fields in reader:
            where = f"{path}, line {reader.line_num}"
            if None in fields or None in fields.values():
                raise InputError(f"{where}: not as many fields as the header has columns; correct this line")
            lines.append((where, fields))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not CSV: {error}; correct this line") from error
    return lines


def _jsonl(path: Path, text: str) -> list[tuple[str, Mapping[str, Any]]]:
    lines: list[tuple[str, Mapping[str, Any]]] = []
    for number, line in enumerate(split_lines(text), start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON: {error}; correct this line") from error
        if not isinstance(fields, dict):
            raise InputError(f"{where}: expected an object, found {type(fields).__name__}; correct this line")
        if lines and not set(lines[0][1]) <= set(fields):
            missing = ", ".join(sorted(set(lines[0][1]) - set(fields)))
            raise InputError(f"{where}: lacks {missing}, which the first line has; write null where a value is missing")
        lines.append((where, fields))
    return lines


def _need(path: Path, lines: Sequence[tuple[str, Mapping[str, Any]]], names: Sequence[str]) -> None:
    absent = [name for name in names if name not in lines[0][1]]
    if absent:
        raise InputError(f"{path}: no column {', '.join(absent)}; found: {', '.join(map(str, lines[0][1]))}")


def _rows(lines: Sequence[tuple[str, Mapping[str, Any]]]) -> np.ndarray:
    seen: dict[int, str] = {}
    for where, fields in lines:
        row = _whole(fields, "row", where)
        if row in seen:
            raise InputError(
                f"{where}: row {row} is also in {seen[row]}; a file holds one model's judgements, a row once"
            )
        seen[row] = where
    return np.array(list(seen), dtype=np.int64)


def _number(fields: Mapping[str, Any], name: str, where: str) -> float:
    """Read a finite number, or nan where the field is empty."""
    value = fields[name]
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "nan", "null", "none")):
        return math.nan
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= _LARGEST:
        raise InputError(
            f"{where}: {name} is {_brief(value)}; a finite number is needed (up to {_LARGEST:g}), or nothing where it "
            "is missing"
        )
    return number


def _known(fields: Mapping[str, Any], name: str, where: str) -> float:
    number = _number(fields, name, where)
    if math.isnan(number):
        raise InputError(f"{where}: {name} is missing; a number is needed")
    return number


def _whole(fields: Mapping[str, Any], name: str, where: str) -> int:
    number = _known(fields, name, where)
    if not 0 <= number <= _LARGEST_ROW or number != int(number):
        raise InputError(f"{where}: {name} is {_brief(fields[name])}; a whole number from 0 is needed")
    return int(number)


def _length(fields: Mapping[str, Any], name: str, where: str) -> float:
    number = _known(fields, name, where)
    if number < 0:
        raise InputError(f"{where}: {name} is {_brief(fields[name])}; a number of characters is needed")
    return number


def _preference(fields: Mapping[str, Any], where: str) -> float:
    value = _number(fields, "preference", where)
    if value == 0 or math.isnan(value):
        return 0.5 if value == 0 else math.nan
    if not 1 <= value <= 2:
        raise InputError(
            f"{where}: preference is {_brief(fields['preference'])}; it is from 1 (the baseline wins) to 2 (the model "
            "wins), 0 or 1.5 for a tie"
        )
    return value - 1


def _scored(lines: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes and differences of the scores, float64 [P] each."""
    scores = np.array([[_number(fields, name, where) for name in _SCORES] for where, fields in lines])
    return outcomes(scores[:, 0], scores[:, 1]), scores[:, 0] - scores[:, 1]


def _refuse_contradictions(
    lines: Sequence[tuple[str, Mapping[str, Any]]], preferred_P: np.ndarray, scored_P: np.ndarray
) -> None:
    """Refuse a row whose preference names one side the winner and whose scores the other."""
    against_P = (preferred_P - 0.5) * (scored_P - 0.5) < 0
    if not against_P.any():
        return
    where, fields = lines[int(against_P.argmax())]
    values = ", ".join(f"{name} is {_brief(fields[name])}" for name in (*_PREFERENCE, *_SCORES))
    more = int(against_P.sum()) - 1
    of = f" (and {more} more row{'' if more == 1 else 's'})" if more else ""
    raise InputError(
        f"{where}: {values}: one says that the model wins, the other that the baseline does{of}; correct this line, or "
        "leave out the column preference, or both scores"
    )


def _brief(value: object) -> str:
    """A value on one short line."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
