"""The cache of prepared data: the same trees as without, rebuilt where damaged, shards that make the whole."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from tiny_models import tiny_tokenizer

from alignkit.data.chat.chat import CHATML, Chat
from alignkit.data.prepared import cache, store
from alignkit.data.prepared.cache import Preparation, prepare_cached
from alignkit.data.prepared.store import Stored
from alignkit.data.prepared.tokens import Prepared, prepare
from alignkit.data.reading.rows import Row, to_row
from alignkit.data.trees.trees import Segment, Tree
from alignkit.errors import InputError
from alignkit.pretrained.read import load_tokenizer
from alignkit.units import Pairs

OPTIONS: dict[str, Any] = {"unit": Pairs(), "max_length": 100, "train_on": None, "whole_answer": False}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder, template=CHATML)
    return Chat(load_tokenizer(folder))


def some_rows(count: int = 40) -> list[Row]:
    """Rows of which one in ten is empty, and one in thirteen too long."""
    fields = (
        {
            "id": f"r{n}ä",
            "prompt": f"Say {n}",
            "chosen": "" if n % 10 == 3 else f"{n}" * (1 + n % 5) * (20 if n % 13 == 5 else 1),
            "rejected": f"not {n}",
            "topic": [n, None],
        }
        for n in range(count)
    )
    return [to_row(f, where=f"x.jsonl, line {n}") for n, f in enumerate(fields, start=1)]


def preparation(chat: Chat, made_of: list[Row], **changes: Any) -> Preparation:
    given: dict[str, Any] = {
        "rows": lambda: iter(made_of),
        "data": {"rows": "some"},
        "chat": chat,
        "columns": {},
        "truncation": "cut-completion",
        "max_skipped": 0.5,
        "options": OPTIONS,
    }
    return Preparation(**given | changes)


def assert_same_trees(left: Prepared, right: Prepared) -> None:
    """Every field of every tree and row is equal; a field that trees are given later must be kept too."""
    assert [f.name for f in dataclasses.fields(Tree)] == ["row_id", "segments", "reference_length", "labels"]
    assert [f.name for f in dataclasses.fields(Segment)] == ["ids", "scored"]
    assert len(left.trees) == len(right.trees)
    for one, other in zip(left.trees, right.trees, strict=True):
        assert (one.row_id, one.reference_length, one.labels) == (other.row_id, other.reference_length, other.labels)
        for a, b in zip(one.segments, other.segments, strict=True):
            assert a.ids.dtype == b.ids.dtype and a.scored.dtype == b.scored.dtype
            assert a.ids.tolist() == b.ids.tolist() and a.scored.tolist() == b.scored.tolist()
    assert list(left.rows) == list(right.rows)
    assert [row.where for row in left.rows] == [row.where for row in right.rows]
    assert dict(left.skipped) == dict(right.skipped)
    assert (left.num_cut, left.num_dropped) == (right.num_cut, right.num_dropped)
    assert left.num_tokenized_otherwise == right.num_tokenized_otherwise
    assert {n: sorted(c.tolist()) for n, c in left.lengths.items()} == {
        n: sorted(c.tolist()) for n, c in right.lengths.items()
    }


@pytest.mark.parametrize("truncation", ["cut-completion", "drop-row"])
def test_what_is_stored_in_chunks_is_what_prepare_gives(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, truncation: str
) -> None:
    monkeypatch.setattr(cache, "CHUNK_ROWS", 7)
    rows = some_rows()
    stored = prepare_cached(preparation(chat, rows, truncation=truncation), tmp_path)
    plain = prepare(rows, chat, truncation=truncation, max_skipped=0.5, **OPTIONS)
    assert plain.num_cut + plain.num_dropped == 2 and len(plain.skipped) == 4
    assert_same_trees(stored, plain)
    assert stored.trees.lengths().tolist() == [len(tree) for tree in plain.trees]
    assert stored.trees.ids() == [row.id for row in plain.rows]
    assert [row.id for row in stored.rows[1:3]] == [row.id for row in plain.rows[1:3]]
    assert stored.trees[-1].row_id == plain.trees[-1].row_id


def test_the_second_time_no_row_is_read(chat: Chat, tmp_path: Path) -> None:
    first = prepare_cached(preparation(chat, some_rows()), tmp_path)

    def unread() -> Iterator[Row]:
        raise AssertionError("the rows were read again")

    second = prepare_cached(preparation(chat, [], rows=unread), tmp_path)
    assert not first.from_cache and second.from_cache
    assert second.fingerprint == first.fingerprint
    assert_same_trees(second, first)


def test_whatever_decides_a_token_is_in_the_key(chat: Chat, tmp_path: Path) -> None:
    from tokenizers import AddedToken

    rows = some_rows()
    keys = [preparation(chat, rows).key()]
    assert preparation(chat, list(rows)).key() == keys[0]
    keys.append(preparation(chat, rows, data={"rows": "others"}).key())
    keys.append(preparation(chat, rows, columns={"prompt": "question"}).key())
    keys.append(preparation(chat, rows, options=OPTIONS | {"max_length": 99}).key())
    keys.append(preparation(chat, rows, truncation="drop-row").key())
    keys.append(preparation(Chat(chat.tokenizer, system="Be brief."), rows).key())
    template = tmp_path / "t.jinja"
    template.write_text(CHATML + "{% if x %}{% endif %}", encoding="utf-8")
    keys.append(preparation(Chat(chat.tokenizer, template=str(template)), rows).key())
    keys.append(preparation(Chat(chat.tokenizer, template=str(template), template_kwargs={"x": 1}), rows).key())
    tiny_tokenizer(tmp_path / "other", template=CHATML)
    other = load_tokenizer(tmp_path / "other")
    other.add_tokens([AddedToken("yes", special=False, normalized=False)])
    keys.append(preparation(Chat(other), rows).key())
    assert len(set(keys)) == len(keys)
    assert preparation(chat, rows, truncation=None).key() == keys[0]  # only the account is looked at otherwise


def test_a_template_that_asks_for_the_date_is_prepared_anew_each_day(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ strftime_now('%d') }}" + CHATML, encoding="utf-8")
    dated = preparation(Chat(chat.tokenizer, template=str(template)), [])
    plain = preparation(chat, [])
    before = dated.key(), plain.key()

    class Tomorrow:
        @staticmethod
        def today() -> Any:
            import datetime

            return datetime.date(2999, 1, 1)

    monkeypatch.setattr(cache, "date", Tomorrow)
    assert dated.key() != before[0] and plain.key() == before[1]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest", "half"])
def test_a_damaged_or_half_written_entry_is_found_and_made_again(
    chat: Chat, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    made = preparation(chat, some_rows())
    whole = prepare_cached(made, tmp_path)
    entry = tmp_path / made.key()
    ids = entry / "ids.bin"
    content = ids.read_bytes()
    if damage == "flip":
        ids.write_bytes(content[:9] + bytes([content[9] ^ 1]) + content[10:])
    elif damage == "cut":
        ids.write_bytes(content[:-4])
    elif damage == "remove":
        ids.unlink()
    elif damage == "manifest":
        (entry / "manifest.json").write_text('{"files": ')
    else:
        (entry / "manifest.json").unlink()
    with caplog.at_level(logging.WARNING):
        again = prepare_cached(made, tmp_path)
    assert "prepared data is damaged and made again" in caplog.text
    assert not again.from_cache
    assert again.fingerprint == whole.fingerprint
    assert_same_trees(again, prepare(some_rows(), chat, truncation="cut-completion", max_skipped=0.5, **OPTIONS))


def test_a_failed_preparation_leaves_no_entry(chat: Chat, tmp_path: Path) -> None:
    def failing() -> Iterator[Row]:
        yield from some_rows(5)
        raise InputError("line 6 is wrong")

    with pytest.raises(InputError, match="line 6 is wrong"):
        prepare_cached(preparation(chat, [], rows=failing), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("chunk", [0, 1, 3])
def test_a_disk_that_is_full_at_any_chunk_leaves_no_entry(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(cache, "CHUNK_ROWS", 10)  # four of them, written in a thread
    written: list[int] = []

    def add(self: store.Writer, part: Prepared, numbers: list[int]) -> None:
        written.append(len(numbers))
        if len(written) > chunk:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.Writer, "add", add)
    with pytest.raises(InputError, match="prepared data cannot be kept here: No space left on device; make room"):
        prepare_cached(preparation(chat, some_rows()), tmp_path)
    assert len(written) == chunk + 1 and not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_data_that_changes_while_it_is_read_is_refused(chat: Chat, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the data changed while it was read"):
        prepare_cached(preparation(chat, some_rows(), unchanged=lambda: False), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truncation": None}, r"2 of 40 rows \(5.0 %\) are longer than --max-length 100"),
        ({"truncation": "stop"}, r"2 of 40 rows \(5.0 %\) are longer than --max-length 100"),
        ({"max_skipped": 0.05}, r"4 of 40 rows \(10.0 %\) cannot be used, more than --max-skipped 0.05"),
    ],
)
def test_the_account_is_of_all_rows_and_of_a_cached_entry_too(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(cache, "CHUNK_ROWS", 7)
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            prepare_cached(preparation(chat, some_rows(), **changes), tmp_path)


def test_rows_of_which_none_can_be_used_are_refused(chat: Chat, tmp_path: Path) -> None:
    empty = [row for row in some_rows() if not row.reference]
    with pytest.raises(InputError, match=r"none of the 4 rows can be used: 4 empty chosen answer \(r3ä, r13ä, r23ä"):
        prepare_cached(preparation(chat, empty, max_skipped=1.0), tmp_path)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_union_of_all_shards_is_the_whole(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(cache, "CHUNK_ROWS", 4)
    made = preparation(chat, some_rows(), notes=lambda: {"seen": 40})
    whole = prepare_cached(made, tmp_path / "whole")
    parts = [prepare_cached(made, tmp_path / "parts", shard=(i, count)) for i in range(1, count + 1)]
    assert sorted(row for part in parts for row in part.trees.ids()) == sorted(whole.trees.ids())
    assert sum(len(part.trees) for part in parts) == len(whole.trees)

    def unread() -> Iterator[Row]:
        raise AssertionError("the parts were there")

    joined = prepare_cached(dataclasses.replace(made, rows=unread), tmp_path / "parts")
    assert_same_trees(joined, whole)
    assert joined.fingerprint == whole.fingerprint
    assert np.array_equal(joined.numbers, whole.numbers)
    assert joined.notes == {"seen": 40}


def test_an_incomplete_set_of_shards_is_not_taken_for_the_whole(chat: Chat, tmp_path: Path) -> None:
    made = preparation(chat, some_rows())
    prepare_cached(made, tmp_path, shard=(1, 2))
    assert len(prepare_cached(made, tmp_path).trees) == 36


def test_entries_unused_for_longest_go_when_there_is_no_room(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    entries = [preparation(chat, some_rows(10 + n), data={"n": n}, max_skipped=1.0) for n in range(3)]
    for age, made in zip((100, 200), entries, strict=False):
        prepare_cached(made, tmp_path)
        os.utime(tmp_path / made.key(), (age, age))
    size = sum(f.stat().st_size for f in (tmp_path / entries[1].key()).iterdir())
    monkeypatch.setattr(cache, "MAX_BYTES", 2.5 * size)
    kept = prepare_cached(entries[2], tmp_path)
    assert isinstance(kept, Stored) and len(kept.trees) == 11
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {made.key() for made in entries[1:]}


def test_a_folder_that_cannot_be_written_is_named(chat: Chat, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/prepared: prepared data cannot be kept here: .*ALIGNKIT_CACHE"):
        prepare_cached(preparation(chat, some_rows()), tmp_path / "file" / "prepared")


def test_a_row_whose_old_turns_were_cut_keeps_its_shorter_prompt(chat: Chat, tmp_path: Path) -> None:
    turns = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    whole = to_row({"id": "x", "prompt": turns, "chosen": "yes", "rejected": "no"}, where="x")
    shorter = dataclasses.replace(whole, prompt=whole.prompt[2:])
    stored = prepare_cached(preparation(chat, [whole, dataclasses.replace(shorter, id="y")]), tmp_path)
    assert [row.prompt for row in stored.rows] == [whole.prompt, shorter.prompt]


def test_values_that_json_does_not_have_become_text(chat: Chat, tmp_path: Path) -> None:
    import datetime

    fields = {"id": "a", "prompt": "Hi", "chosen": "yes", "rejected": "no", "at": datetime.date(2026, 1, 2)}
    stored = prepare_cached(preparation(chat, [to_row(fields, where="x")]), tmp_path)
    assert stored.rows[0].fields == fields | {"at": "2026-01-02"}
    assert json.loads((next(tmp_path.glob("*/manifest.json"))).read_text())["files"]["ids"]["bytes"] > 0


def test_what_a_killed_preparation_left_goes_and_a_living_one_keeps_its_own(chat: Chat, tmp_path: Path) -> None:
    def killed() -> Iterator[Row]:
        yield from some_rows(5)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        prepare_cached(preparation(chat, [], rows=killed), tmp_path)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    (left,) = (path for path in tmp_path.iterdir() if path.name.endswith(".part"))
    alive = tmp_path / f".{'a' * 32}.part"
    for folder in (alive, tmp_path / "users.part"):
        folder.mkdir()
    with filelock.FileLock(tmp_path / f"{'a' * 32}.lock"):
        prepare_cached(preparation(chat, some_rows(), data={"rows": "others"}), tmp_path)
        assert not left.exists() and alive.exists()
    prepare_cached(preparation(chat, some_rows(), data={"rows": "others"}), tmp_path)
    assert not alive.exists() and (tmp_path / "users.part").exists()


def test_two_entries_that_changed_places_and_a_changed_manifest_are_noticed(
    chat: Chat, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = [preparation(chat, some_rows(count), data={"rows": count}) for count in (20, 30)]
    whole = [prepare_cached(one, tmp_path).fingerprint for one in made]
    one, other = (tmp_path / each.key() for each in made)
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    assert [prepare_cached(each, tmp_path).fingerprint for each in made] == whole
    assert caplog.text.count("another entry") == 2
    manifest = one / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"counts"', '"count5"'))
    assert prepare_cached(made[0], tmp_path).fingerprint == whole[0]
    assert "manifest.json: not what was written" in caplog.text


def test_the_content_of_rows_is_hashed_beside_their_tokens(chat: Chat, tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "Say", "chosen": "it", "rejected": "no", "tags": tag} for tag in ("x", "y")]
    one, other = (
        prepare_cached(preparation(chat, [to_row(row, where="x")], data={"rows": row["tags"]}), tmp_path)
        for row in rows
    )
    assert one.fingerprint == other.fingerprint and one.content != other.content
