"""Reads rows from where `--data` points: a file, a folder, a plugin's data set, or the hub.

Files are JSONL (also .gz and .zst) and Parquet. A folder's files are read in the order of their names.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from alignkit.data.dataset import Dataset
from alignkit.data.rows import Row, to_row
from alignkit.errors import InputError, UsageError, nearest
from alignkit.registry import registry

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")


def read_rows(data: str, *, columns: Mapping[str, str] | None = None, limit: int | None = None) -> list[Row]:
    """Read the rows that `data` names, at most `limit`, in file order.

    Raises:
        InputError: a file is missing or unreadable, a line is not JSON, a row's shape is unknown, or there is no row.
        UsageError: no file, plugin or hub data set has that name.
    """
    rows: list[Row] = []
    for where, fields in islice(_lines(data), limit):
        rows.append(to_row(fields, where=where, columns=columns))
    if not rows:
        raise InputError(f"{data}: no rows; give a file with a JSON object a line, or another --data")
    return _with_distinct_ids(rows)


def _with_distinct_ids(rows: list[Row]) -> list[Row]:
    """Rows that share an id (or content) would be taken for one another: number the later ones."""
    import dataclasses

    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        seen[row.id] = seen.get(row.id, 0) + 1
        if seen[row.id] > 1:
            rows[number] = dataclasses.replace(row, id=f"{row.id}#{seen[row.id]}")
    return rows


def _lines(data: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    path = Path(data).expanduser()
    name, _, part = data.partition(":")
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))
        if not files:
            raise InputError(f"{path}: no data file in this folder; read are {', '.join(SUFFIXES)}")
        for file in files:
            yield from _file(file)
    elif path.exists():
        yield from _file(path)
    elif name in registry().names("dataset"):
        yield from _plugin(name, part or "train")
    elif path.name.endswith(SUFFIXES) or data.startswith((".", "/", "~")):
        raise InputError(f"{path}: no such file; --data names a file, a folder, or what `alignkit plugins list` shows")
    elif name.count("/") == 1:
        yield from _hub(name, part or None)
    else:
        known = registry().names("dataset")
        raise UsageError(
            f"no data is named {data!r}{nearest(name, known)}; give a file, a folder, OWNER/NAME[:SPLIT] of the hub, "
            f"or one of: {', '.join(known) or 'none'}"
        )


def _file(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path}: unknown kind of file; read are {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
        else:
            yield from _jsonl(path)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {reason}; give a whole file that you may read") from error


def _jsonl(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            yield where, _object(line, where)


def _object(line: bytes, where: str) -> Mapping[str, Any]:
    """Read one line; a `\\u` escape that is half a character is refused here, since no tokenizer takes it."""
    try:
        fields = json.loads(line.decode("utf-8"))
        if b"\\u" in line:
            json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8: {error.reason} at byte {error.start}; save the file as UTF-8") from error
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: no valid text: {error.reason}; correct or remove this line") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not JSON: {error.msg} at column {error.colno}; correct or remove this line"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise InputError(f"{where}: JSON that cannot be read: {error}; correct or remove this line") from error
    if not isinstance(fields, dict):
        raise InputError(f"{where}: expected an object, found {type(fields).__name__}; correct or remove this line")
    return fields


def _opened(path: Path) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".zst":
        import io

        import polars

        # polars decompresses zst; reading lines as one raw column leaves JSON errors to us
        try:
            frame = polars.read_csv(
                path, has_header=False, separator="\x01", quote_char=None, infer_schema=False, raise_if_empty=False
            )
        except polars.exceptions.PolarsError as error:
            raise InputError(f"{path}: not readable as zst: {_first_line(error)}; pack it again") from error
        lines = frame.to_series().fill_null("").to_list() if frame.width else []
        return io.BytesIO("\n".join(lines).encode())
    return open(path, "rb")


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import polars

    try:
        frame = polars.read_parquet(path)
    except polars.exceptions.PolarsError as error:
        raise InputError(f"{path}: not a readable Parquet file: {_first_line(error)}; write it again") from error
    for number, fields in enumerate(frame.iter_rows(named=True), start=1):
        yield f"{path}, row {number}", fields


def _plugin(name: str, part: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    cls = registry().find("dataset", name)
    assert issubclass(cls, Dataset)
    if part not in cls.parts:
        raise UsageError(
            f"data set {name!r} has no part {part!r}{nearest(part, list(cls.parts))}; it has {', '.join(cls.parts)}"
        )
    for number, fields in enumerate(cls().rows(part), start=1):
        yield f"{name}:{part}, row {number}", fields


def _hub(name: str, split: str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Download a hub data set's Parquet files of one split and read them."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    wanted = split or ("train_prefs" if name.endswith("ultrafeedback_binarized") else "train")
    try:
        files = sorted(f for f in HfApi().list_repo_files(name, repo_type="dataset") if f.endswith(".parquet"))
        chosen = [f for f in files if Path(f).name.startswith(f"{wanted}-") or Path(f).parent.name == wanted]
        if not chosen:
            raise InputError(
                f"hub data set {name}: no Parquet file of split {wanted!r}; it has {', '.join(files) or 'none'}"
            )
        local = [Path(hf_hub_download(name, f, repo_type="dataset")) for f in chosen]
    except RepositoryNotFoundError as error:
        raise InputError(f"hub data set {name}: not found, or private without a token") from error
    except (OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise InputError(
            f"hub data set {name}: the hub cannot be reached; give a file with --data FILE.jsonl, or --data demo "
            f"for the tasks that alignkit makes itself ({type(error).__name__})"
        ) from error
    except Exception as error:
        if type(error).__module__.startswith(("httpx", "httpcore")):
            raise InputError(
                f"hub data set {name}: the hub cannot be reached; give a file with --data FILE.jsonl, or --data demo "
                f"for the tasks that alignkit makes itself ({type(error).__name__})"
            ) from error
        raise
    for file in local:
        yield from _parquet(file)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
