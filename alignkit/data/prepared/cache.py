"""Prepared rows are kept: the second run on the same data starts at once.

The key hashes everything that decides a token: the data's fingerprint and selection, the tokenizer's files, the
template's text and settings, the options, and this package's code. An entry takes its place when it is whole. Every
byte is checked when it is read, and a damaged entry is prepared again. Processes that want the same entry wait for the
one that makes it.

A part `shard i of n` takes every n-th row. Where all n parts of a key are there, the whole is put together from them.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from alignkit import _native
from alignkit.data.chat.chat import Chat
from alignkit.data.prepared import store
from alignkit.data.prepared.steps import begun
from alignkit.data.prepared.store import Stored
from alignkit.data.prepared.tokens import Prepared, check_account, preparing
from alignkit.data.reading.messages import text_of_turn
from alignkit.data.reading.rows import Row
from alignkit.errors import InputError
from alignkit.memory import no_search_for_cycles
from alignkit.progress import phase
from alignkit.storage import new_folder
from alignkit.units import Unit

T = TypeVar("T")
_logger = logging.getLogger(__name__)
MAX_BYTES = 20 * 2**30  # of all entries; those unused for longest go first
CHUNK_ROWS, CHUNK_CHARACTERS = 1000, 4_000_000  # what is prepared at once: this bounds the memory
_CHUNKS_AHEAD = 3  # read while the template's process starts
_ORPHAN = re.compile(r"\.(?P<entry>[0-9a-f]{32}(\.[0-9]+-of-[0-9]+)?)\.(part|old)")  # as new_folder names them


@dataclass(frozen=True)
class Preparation:
    """What is to be prepared, and how.

    Args:
        rows: gives the rows, in order; called only where they are not prepared yet.
        data: hashes of the data and of which of its rows are meant.
        columns: our name = the file's name, as the rows are read with.
        options: of `tokens.prepare`, but truncation and max_skipped.
        notes: gives what was seen while the rows were read, to be kept beside them.
        unchanged: says whether `data` still holds; asked after reading.
    """

    rows: Callable[[], Iterable[Row]]
    data: Mapping[str, object]
    chat: Chat
    columns: Mapping[str, str]
    truncation: str | None
    max_skipped: float
    options: Mapping[str, Any]
    notes: Callable[[], Mapping[str, Any]] = field(default=dict)
    unchanged: Callable[[], bool] = field(default=lambda: True)

    def key(self) -> str:
        """Hash everything that decides a token."""
        chat = self.chat
        parts = {
            "data": dict(self.data),
            "columns": dict(self.columns),
            "unit": _source(self.options["unit"]),
            "options": {**self.options, "truncation": self._truncation_of_parts()},
            "tokenizer": [chat.encoder.fingerprint, sorted(map(str, chat.tokenizer.all_special_tokens))],
            "template": chat.template,
            "settings": {"system": chat.system, "template_kwargs": chat.template_kwargs},
            "day": date.today().isoformat() if "strftime_now" in chat.template else None,
            "code": _code_hash(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def _truncation_of_parts(self) -> str:
        """What is done with a long row of a part; whether there are too many is seen when all are counted."""
        return "cut-completion" if self.truncation in (None, "stop") else self.truncation

    def write(self, folder: Path, shard: tuple[int, int] | None, *, name: str = "") -> None:
        """Prepare every row, or those of one shard (from 1), into a store of that name."""
        writer = store.Writer(folder, columns=self.columns)
        options = dict(self.options) | {"truncation": self._truncation_of_parts(), "max_skipped": 1.0}
        try:
            self.chat.renderer.start()  # while the first rows are read
            with no_search_for_cycles(), phase("preparing rows") as count, ThreadPoolExecutor(1, "prepare") as thread:
                adding: Future[None] | None = None
                for numbers, rows, part in self._parts(thread, shard, options):
                    place = dict(zip((row.id for row in rows), numbers, strict=True))
                    if adding is not None:
                        adding.result()
                    adding = thread.submit(writer.add, part, [place[row.id] for row in part.rows])
                    count(len(rows))
            if adding is not None:
                adding.result()
            writer.finish(self.notes(), name=name)
        finally:
            writer.close()
        if not self.unchanged():
            raise InputError("the data changed while it was read; begin again when it is complete")

    def _parts(
        self, thread: Executor, shard: tuple[int, int] | None, options: Mapping[str, Any]
    ) -> Iterator[tuple[list[int], list[Row], Prepared]]:
        """Prepare chunk after chunk; the thread tokenizes one, while this one reads the next."""
        waiting: deque[tuple[list[int], list[Row], Callable[[], Prepared]]] = deque()
        for numbers, rows in read_ahead(chunks(self.rows(), shard), _CHUNKS_AHEAD):
            waiting.append((numbers, rows, begun(preparing(rows, self.chat, is_part=True, **options), thread)))
            if len(waiting) > 1:
                numbers, rows, result = waiting.popleft()
                yield numbers, rows, result()
        for numbers, rows, result in waiting:
            yield numbers, rows, result()


def prepare_cached(preparation: Preparation, folder: Path, *, shard: tuple[int, int] | None = None) -> Stored:
    """Prepare rows, or take them from the cache; the result is that of `tokens.prepare`, lying in files.

    Args:
        folder: of all entries.
        shard: (i, n), i from 1: every n-th row only; whether too many rows are skipped or cut is then not asked.

    Raises:
        InputError: as `tokens.prepare`; the folder cannot be written; the data changed meanwhile.
    """
    import filelock

    key = preparation.key()
    name = key if shard is None else f"{key}.{shard[0]}-of-{shard[1]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / f"{name}.lock"):
            stored = _entry(folder / name) or _made(preparation, folder / name, folder, key, shard)
        if not stored.from_cache:  # else nothing grew, and the size of every entry is a slow question
            _prune(folder, keep=name)
        _remove_orphans(folder)
    except OSError as error:
        raise InputError(
            f"{folder}: prepared data cannot be kept here: {error.strerror or error}; make room, or name another "
            "folder in the environment variable ALIGNKIT_CACHE"
        ) from error
    if shard is None:
        check_account(
            stored,
            max_length=preparation.options["max_length"],
            truncation=preparation.truncation,
            max_skipped=preparation.max_skipped,
        )
    return stored


def _entry(path: Path) -> Stored | None:
    """Read an entry; a damaged one is removed."""
    if not path.exists():
        return None
    try:
        stored = store.load(path, name=path.name)
    except store.Damaged as error:
        _logger.warning("prepared data is damaged and made again: %s", error)
        shutil.rmtree(path)
        return None
    os.utime(path)
    return replace(stored, from_cache=True)


def _made(preparation: Preparation, path: Path, folder: Path, key: str, shard: tuple[int, int] | None) -> Stored:
    with new_folder(path, is_synced=False) as working:
        shards = None if shard is not None else _shards(folder, key)
        if shards is None:
            preparation.write(working, shard, name=path.name)
        else:
            _join(shards, working, preparation.columns, name=path.name)
    return store.load(path, name=path.name)


def _shards(folder: Path, key: str) -> list[Stored] | None:
    """Return every part of a key, where all n of n are there and whole."""
    counts = sorted({int(path.name.rpartition("-")[2]) for path in folder.glob(f"{key}.*-of-*[0-9]") if path.is_dir()})
    for count in counts:
        parts = [_entry(folder / f"{key}.{number}-of-{count}") for number in range(1, count + 1)]
        if all(part is not None for part in parts):
            return [part for part in parts if part is not None]
    return None


def _join(parts: list[Stored], folder: Path, columns: Mapping[str, str], *, name: str) -> None:
    """Write the parts' trees into one store of that name, in the rows' order."""
    numbers = np.concatenate([part.numbers for part in parts])
    owner = np.repeat(np.arange(len(parts)), [len(part.numbers) for part in parts])
    inside = np.concatenate([np.arange(len(part.numbers)) for part in parts])
    order = np.argsort(numbers, kind="stable")
    writer = store.Writer(folder, columns=columns)
    try:
        for part in parts:
            account = Prepared([], [], part.skipped, part.left_out, lengths=part.lengths, **store.counts_of(part))
            writer.add(account, [])
        for start in range(0, len(order), CHUNK_ROWS):
            these = [(parts[owner[n]], int(inside[n])) for n in order[start : start + CHUNK_ROWS]]
            trees = Prepared([part.trees[at] for part, at in these], [part.rows[at] for part, at in these])
            writer.add(trees, numbers[order[start : start + CHUNK_ROWS]].tolist())
        said = list(dict.fromkeys(line for part in parts for line in part.notes.get("said", ())))
        writer.finish({**parts[0].notes, **({"said": said} if said else {})}, name=name)
    finally:
        writer.close()


def chunks(rows: Iterable[Row], shard: tuple[int, int] | None = None) -> Iterator[tuple[list[int], list[Row]]]:
    """Cut a stream into lists that are small in rows and in text; with each row's place in the stream."""
    numbered: Iterable[tuple[int, Row]] = enumerate(rows)
    if shard is not None:
        numbered = islice(numbered, shard[0] - 1, None, shard[1])
    numbers: list[int] = []
    chunk: list[Row] = []
    characters = 0
    for number, row in numbered:
        numbers.append(number)
        chunk.append(row)
        characters += len(row.json) if row.json is not None else _characters(row)
        if len(chunk) == CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield numbers, chunk
            numbers, chunk, characters = [], [], 0
    if chunk:
        yield numbers, chunk


def read_ahead(items: Iterable[T], num_ahead: int) -> Iterator[T]:
    """Yield items; so many behind each are read before it."""
    read: deque[T] = deque()
    for item in items:
        read.append(item)
        if len(read) > num_ahead:
            yield read.popleft()
    yield from read


def _characters(row: Row) -> int:
    return sum(
        len(text_of_turn(m)) + len(m.get("reasoning_content", ""))
        for part in (row.prompt, row.chosen, row.rejected)
        for m in part or ()
    )


def _prune(folder: Path, *, keep: str) -> None:
    """Remove the entries unused for longest until the others fit; files that are mapped live on until let go."""
    entries = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError, NotADirectoryError):  # another process may remove it meanwhile
            if not path.name.endswith((".part", ".lock")):
                with os.scandir(path) as files:
                    size = sum(file.stat().st_size for file in files)
                entries.append((path.stat().st_mtime, size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= MAX_BYTES:
            return
        if path.name != keep:
            shutil.rmtree(path, ignore_errors=True)
            total -= size


def _remove_orphans(folder: Path) -> None:
    """Remove what killed processes left half-prepared: an entry whose lock is free has no writer."""
    import filelock

    for path in folder.iterdir():
        found = _ORPHAN.fullmatch(path.name)
        if found is None:
            continue
        with suppress(filelock.Timeout), filelock.FileLock(folder / f"{found['entry']}.lock", timeout=0):
            shutil.rmtree(path, ignore_errors=True)


def _source(unit: Unit) -> str:
    """The code of a unit's class: rows are prepared again where it changes."""
    try:
        return inspect.getsource(type(unit))
    except (OSError, TypeError):  # a class typed into an interpreter has no source
        return repr(type(unit))


@cache
def _code_hash() -> str:
    """Hash the modules that make tokens of rows, and the native one."""
    digest = hashlib.sha256()
    data = Path(__file__).parents[1]
    for path in (*sorted(data.rglob("*.py")), data.parent / "units.py", Path(_native.__file__ or "")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
