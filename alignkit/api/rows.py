"""Rows handed over in Python -> a file of the cache, by which the rest of alignkit knows them.

A run, its resume and a later verdict read rows by the name of a file. So rows in memory are written once, under the
hash of what they are: JSON lines for lists of dicts, Parquet for data frames and `datasets`, which keeps their types.
The same rows have the same file, whoever hands them over.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alignkit.errors import InputError, UsageError
from alignkit.storage import PRIVATE_FOLDER, cache_folder, new_file

_TAKEN = "rows as a list of dicts, a polars or pandas data frame, a datasets.Dataset, or the name of data"


def name_of_rows(given: object, argument: str = "data") -> str:
    """Return the name of data: as it was given, or of the file that rows were written into.

    Args:
        given: text or a path; dicts, in a list or made one by one; a data frame of polars or pandas; a
            `datasets.Dataset`, or a list of them to be read one after another.
        argument: what errors call it.

    Raises:
        UsageError: it is none of these.
        InputError: there is no row, or a value is nothing that JSON or Parquet holds.
    """
    if isinstance(given, str | Path):
        return str(given)
    try:
        frame = _frame(given, argument)
        if frame is None:
            content, suffix = _lines(given, argument), "jsonl"
        else:
            if not frame.height:
                raise InputError(f"{argument}: no rows; give some")
            buffer = io.BytesIO()
            frame.write_parquet(buffer)
            content, suffix = buffer.getvalue(), "parquet"
    except (InputError, UsageError):
        raise
    except Exception as error:  # the frame's own library refuses a value in its own way
        raise InputError(f"{argument}: the rows cannot be written: {type(error).__name__}: {error}") from error
    file = cache_folder() / "rows" / f"{hashlib.sha256(content).hexdigest()[:32]}.{suffix}"
    if not file.exists():
        file.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        with new_file(file, private=True) as opened:
            opened.write(content)
    return str(file)


def _frame(given: Any, argument: str) -> Any:
    """Return a polars frame of a table, or None where rows come one by one."""
    import polars

    if isinstance(given, polars.DataFrame):
        return given
    if isinstance(given, polars.LazyFrame):
        return given.collect()
    library = type(given).__module__.partition(".")[0]
    if library == "pandas" and hasattr(given, "columns"):
        return polars.from_pandas(given, nan_to_null=True)
    if library == "datasets" and isinstance(given, Mapping):
        example = next(iter(given), "train")
        raise UsageError(
            f"{argument}: holds the splits {', '.join(map(str, given))}; give one: {argument}=d[{example!r}]"
        )
    if library == "datasets" and hasattr(given, "with_format"):
        if not hasattr(given, "__len__"):  # a stream
            return None
        return polars.from_arrow(given.with_format("arrow")[:])
    return None


def _lines(given: Any, argument: str) -> bytes:
    if isinstance(given, Mapping | bytes) or not isinstance(given, Iterable):
        raise UsageError(f"{argument}: {type(given).__name__} was given; {_TAKEN} is taken")
    lines = []
    for number, row in enumerate(given, start=1):
        if not isinstance(row, Mapping):
            raise UsageError(f"{argument}, row {number}: {type(row).__name__} was given; a row is a dict")
        try:
            lines.append(json.dumps(dict(row), ensure_ascii=False, allow_nan=True) + "\n")
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{argument}, row {number}: {error}; rows hold text, numbers, lists and dicts") from error
    if not lines:
        raise InputError(f"{argument}: no rows; give some")
    return "".join(lines).encode("utf-8", "surrogatepass")
