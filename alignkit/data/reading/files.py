"""Reads the rows of files, one after another: JSON (also .gz and .zst), CSV, TSV, Parquet and Arrow.

No file is held in memory. A row's place is a line where the file has lines. Folders written by datasets'
`save_to_disk` are read by what they say of themselves, all others in the order of their files' names.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignkit.data.reading.json_rows import read_json
from alignkit.data.reading.said import say_once
from alignkit.data.reading.tables import read_arrow, read_csv, read_parquet
from alignkit.data.reading.text_files import Line
from alignkit.errors import InputError

__all__ = ["SUFFIXES", "Line", "files_of", "is_data_file", "read_file"]

_JSON, _CSV = (".jsonl", ".json", ".ndjson"), (".csv", ".tsv")
SUFFIXES = (
    *(suffix + packed for suffix in _JSON for packed in ("", ".gz", ".zst")),
    *(suffix + packed for suffix in _CSV for packed in ("", ".gz")),  # polars' lines of zst lose carriage returns
    *(".parquet", ".arrow", ".feather"),
)
_READ = "JSON (.jsonl, .json, .ndjson, each also .gz and .zst), .csv, .tsv (also .gz), .parquet, .arrow and .feather"
_ABOUT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_NO_DATA = (".md", ".rst", ".py", ".yaml", ".yml", ".lock")


def files_of(path: Path) -> list[Path]:
    """Return the data files of a folder in the order of their names, or the file itself.

    Raises:
        InputError: the folder has none, or several splits, or the file is of another kind.
    """
    if not path.is_dir():
        if not path.name.lower().endswith(SUFFIXES):
            raise InputError(f"{path}: unknown kind of file; read are {_READ}")
        return [path]
    saved = _saved_to_disk(path)
    if saved is not None:
        return saved
    files, others = [], []
    for file in sorted(path.rglob("*")):
        if any(part.startswith(".") for part in file.relative_to(path).parts) or not file.is_file():
            continue
        if is_data_file(file):
            files.append(file)
        elif "." in file.name and file.name not in _ABOUT_DATA and not file.name.endswith(_NO_DATA):
            others.append(file.relative_to(path).as_posix())
    if not files:
        raise InputError(f"{path}: no data file in this folder; read are {_READ}")
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        say_once(f"{path}: not read: {', '.join(others[:5])}{more}")
    return files


def is_data_file(file: Path) -> bool:
    """Whether a file of a data set holds rows, by its name: not what is known about them, nor datasets' own cache."""
    is_cache = file.name.startswith("cache-") and file.suffix == ".arrow"
    return file.name.lower().endswith(SUFFIXES) and file.name not in _ABOUT_DATA and not is_cache


def read_file(path: Path) -> Iterator[Line]:
    """Yield the rows of one file.

    Raises:
        InputError: it cannot be read to its end, or a line is not JSON in UTF-8; names file and line.
    """
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    try:
        if name.endswith(".parquet"):
            yield from read_parquet(path)
        elif name.endswith((".arrow", ".feather")):
            yield from read_arrow(path)
        elif name.endswith((".csv", ".tsv")):
            yield from read_csv(path, "\t" if name.endswith(".tsv") else ",")
        else:
            yield from read_json(path)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {reason}; give a whole file that you may read") from error


def _saved_to_disk(folder: Path) -> list[Path] | None:
    """The files of a data set that datasets' `save_to_disk` wrote; None where the folder is no such one."""
    about = folder / "dataset_dict.json"
    if about.is_file():
        splits = _about(about).get("splits") or []
        if len(splits) != 1:
            example = folder / (splits[0] if splits else "train")
            raise InputError(f"{folder}: holds the splits {', '.join(splits) or '(none)'}; name one: --data {example}")
        return files_of(folder / splits[0])
    state = folder / "state.json"
    if not state.is_file() or not (folder / "dataset_info.json").is_file():
        return None
    about_files = _about(state)
    if about_files.get("_indices_data_files"):
        raise InputError(
            f"{folder}: a selection of rows by their numbers; write it with flatten_indices().save_to_disk"
        )
    return [folder / file["filename"] for file in about_files.get("_data_files") or []]


def _about(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read: {error}; write the data set again") from error
    return found if isinstance(found, dict) else {}
