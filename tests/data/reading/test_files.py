"""Files of every kind give the same rows, and errors that name file, line and byte."""

from __future__ import annotations

import gzip
import json
import logging
import tracemalloc
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import polars
import pyarrow
import pyarrow.parquet
import pytest

from alignkit.data.reading import files, json_rows
from alignkit.data.reading.read import Source, read_rows
from alignkit.errors import InputError

ROWS = [
    {"id": "a", "prompt": 'Say "}]" and \\', "chosen": "{[\n\u2028 \u4e2d\U0001f600", "rejected": "No, 1\r\n"},
    {"id": "b", "prompt": "2 + 2?", "chosen": "0123", "rejected": ""},
    {"id": "c", "prompt": "Name a river.", "chosen": " The Rhine ", "rejected": "x" * 3000},
]
LINES = "\n".join(map(json.dumps, ROWS))
BOM = "\ufeff"


def csv_of(rows: list[dict[str, Any]], separator: str = ",", end: str = "\n") -> str:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [list(rows[0]), *([quoted(row[name]) for name in rows[0]] for row in rows)]
    return "".join(separator.join(line) + end for line in lines)


def wrapped(name: str, before: str = "", behind: str = "") -> str:
    return f'{{{before}"{name}": {json.dumps(ROWS, indent=1)}{behind}}}'


WAYS: dict[str, tuple[str, str]] = {
    "lines": ("a.jsonl", LINES),
    "lines of json": ("a.json", LINES + "\n\n"),
    "ndjson, windows": ("a.ndjson", LINES.replace("\n", "\r\n") + "\r\n"),
    "lines with a mark": ("a.jsonl", BOM + LINES),
    "array": ("a.json", json.dumps(ROWS, indent=2, ensure_ascii=False)),
    "array on one line": ("a.jsonl", json.dumps(ROWS)),
    "array with a mark, one row per line": ("A.JSON", BOM + "\n[" + LINES.replace("\n", ",\r\n") + "\n]\n"),
    "objects on lines": ("a.jsonl", "\n".join(json.dumps(row, indent=2) for row in ROWS)),
    "objects with a mark": ("a.json", BOM + "\r\n\r\n".join(json.dumps(row, indent=2) for row in ROWS) + "\r\n"),
    "one wrapper": ("a.json", wrapped("data")),
    "a wrapper with more": ("a.json", wrapped("instances", '"type": "pairs", "version": 1.5, ', ', "license": "x"')),
    "a wrapper on one line": ("a.jsonl", json.dumps({"n": None, "rows": ROWS}) + "\n"),
    "csv": ("a.csv", csv_of(ROWS)),
    "csv, windows": ("a.csv", BOM + csv_of(ROWS, end="\r\n")),
    "csv of a spreadsheet": ("a.csv", csv_of(ROWS, ";")),
    "tsv": ("A.TSV", csv_of(ROWS, "\t")),
}


PACKED = [*product(WAYS, ["", ".gz"]), *((way, ".zst") for way in WAYS if "sv" not in way)]


@pytest.mark.parametrize(("way", "packed"), PACKED)
def test_every_way_to_write_rows_gives_the_same_rows(way: str, packed: str, tmp_path: Path) -> None:
    name, text = WAYS[way]
    path = tmp_path / (name + packed)
    half = len(text.encode()) // 2
    parts = text.encode()[:half], text.encode()[half:]  # joined in the middle of a row
    if packed == ".gz":
        path.write_bytes(b"".join(map(gzip.compress, parts)))
    elif packed == ".zst":
        lines = polars.DataFrame({"x": [text]})
        lines.write_csv(path, include_header=False, quote_style="never", compression="zstd", check_extension=False)
    else:
        path.write_bytes(b"".join(parts))
    expected = [{name: value or None if "sv" in way else value for name, value in row.items()} for row in ROWS]
    for _ in range(2):  # and again the same
        assert [row.fields for row in read_rows(str(path))] == expected
    assert [row.id for row in read_rows(str(path), limit=2)] == ["a", "b"]


@pytest.mark.parametrize("way", ["array", "objects on lines", "one wrapper", "csv"])
def test_a_row_is_where_it_begins(way: str, tmp_path: Path) -> None:
    name, text = WAYS[way]
    (tmp_path / name).write_bytes(text.encode())
    places = [place for place, _, _ in files.read_file(tmp_path / name)]
    begins = {"array": [2, 8, 14], "objects on lines": [1, 7, 13], "one wrapper": [2, 8, 14], "csv": [2, 5, 6]}[way]
    assert [int(place.partition(", line ")[2].partition(" ")[0]) for place in places] == begins


WRONG = {
    "utf16.jsonl": (LINES.encode("utf-16"), r"line 1, byte 1: not UTF-8 but UTF-16: save the file as UTF-8"),
    "utf16.csv": (csv_of(ROWS).encode("utf-16-le"), r"line 1, byte 1: not UTF-8 but UTF-16"),
    "latin.jsonl": (b'{"prompt": "a", "chosen": "\xe9"}\n', r"line 1: not UTF-8: .* at byte 28; save"),
    "latin.csv": (b"prompt,chosen\na,b\na,\xe9\n", r"line 3: not UTF-8: .* at byte 3; save"),
    "comma.jsonl": (LINES.replace("\n", ",\n").encode(), r"line 1: not JSON: .*byte \d+; take the comma behind"),
    "comma.json": (b'[{"prompt": "a"},\n {"prompt": "b"},\n]', r"line 3, byte 1: a comma before the array's end"),
    "none.json": (
        b'[{"prompt": "a"}\n {"prompt": "b"}]',
        r"line 2, byte 2: no comma and no \] behind a row, '\{' instead",
    ),
    "cut.json": (b'[{"prompt": "a"},\n', r"line 2, byte 1: expected an object in the array, the file ends"),
    "cut2.json": (b'[{"prompt": "a"},\n {"prompt": "b', r"line 2 \(row 2\): the object that begins here does not end"),
    "behind.json": (b'[{"prompt": "a"}]\n[', r"line 2, byte 1: '\[' behind the array's end"),
    "texts.json": (b'["a", "b"]', r"line 1, byte 2: expected an object in the array, found '\"'"),
    "nested.json": (b'[[{"prompt": "a"}]]', r"line 1, byte 2: expected an object in the array, found '\['"),
    "python.jsonl": (repr(ROWS[2]).encode(), r"line 1: not JSON: .* at byte 2; this is how Python prints a row"),
    "true.jsonl": (b'{"prompt": "a", "label": True}', r"line 1: not JSON: .* at byte 26; this is how Python prints"),
    "python.json": (b'[{"prompt": "a"},\n {"prompt":\n  None}]', r"line 2 \(row 2\): .* line 3, byte 3; this is how"),
    "pretty.json": (
        b'{\n"prompt": "a"\n},\n{\n"prompt": "b"\n}',
        r"line 3, byte 2: ',' between two rows; put the rows",
    ),
    "later.jsonl": (b'{"prompt": "a"}\n{\n"prompt": "b"}', r"line 2: not JSON: .*a row must end on the line"),
    "lists.json": (wrapped("train", behind=', "test": [{"prompt": "a"}]').encode(), r'another one, "test"; write each'),
    "row.json": (b'{"items": [{"prompt": "a"}], "prompt": "p"}', 'byte 28: "prompt" behind a list of objects'),
    "columns.json": (b'{"prompt": {"0": "a", "1": "b"}}', "line 1: a table by columns; write it by rows"),
    "gz.jsonl": (gzip.compress(b"{}"), "packed by gzip: let its name end with .gz"),
    "lfs.parquet": (b"version https://git-lfs.github.com/spec/v1\n", "not a readable Parquet file"),
    "lfs.jsonl": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS, not the data: fetch them"),
    "cells.csv": (b"prompt,chosen\na,b\na,b,c\n", "line 3: 3 cells, where the header has 2"),
    "quote.csv": (b'prompt,chosen\na,"b\n"c\n', "line 2: not CSV: "),
    "open.csv": (b'prompt,chosen\na,b\nc,"d\n\n', "line 3: not CSV: unexpected end of data"),
    "twice.csv": (b"prompt,prompt\na,b\n", "two columns are named 'prompt'"),
    "old.feather": (b"FEA1....", "Feather's first version"),
    "no.arrow": (b"certainly no table" * 9, "not a readable Arrow file: Expected to read .* write it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    content, message = WRONG[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read_rows(str(tmp_path / name))
    assert str(raised.value).startswith(str(tmp_path / name)) and "remove" not in str(raised.value)


def test_a_list_in_a_row_is_no_list_of_rows(tmp_path: Path) -> None:
    row = {"prompt": "a", "chosen": "b", "items": [{"prompt": "no row"}]}
    for number, text in enumerate(
        (json.dumps(row), json.dumps(row, indent=1), json.dumps(row) + "\n" + json.dumps(row))
    ):
        (tmp_path / f"{number}.json").write_text(text)
        assert [one.fields for one in read_rows(str(tmp_path / f"{number}.json"))] == [row] * (1 + number // 2)


def test_cells_are_text_and_labels_say_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,completion,label\n1,007,True\n2,1e3,0\n3,,1.0\n\n4,nein,false\n")
    rows = read_rows(str(tmp_path / "a.csv"))
    assert [(row.prompt[0]["content"], row.fields["completion"], row.fields["label"]) for row in rows] == [
        ("1", "007", True),
        ("2", "1e3", 0),
        ("3", None, 1),
        ("4", "nein", False),
    ]
    mapped = read_rows(str(tmp_path / "a.csv"), columns={"desirable": "label", "label": ""})
    assert [row.label for row in mapped[:2]] == [True, False]
    (tmp_path / "c.csv").write_text("prompt,completion,fine\n1,a,True\n2,b,False\n")
    assert [row.label for row in read_rows(str(tmp_path / "c.csv"), columns={"label": "fine"})] == [True, False]
    (tmp_path / "b.csv").write_text("prompt,completion,label\n1,a,up\n")
    with pytest.raises(InputError, match="line 2: 'label' must be true or false"):
        read_rows(str(tmp_path / "b.csv"))


def test_ties_of_tables_say_what_labels_say(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected,tie\n1,a,b,1\n2,a,b,False\n3,a,b,\n4,a,b,TRUE\n")
    assert [row.is_tie for row in read_rows(str(tmp_path / "a.csv"))] == [True, False, False, True]
    (tmp_path / "b.csv").write_text("prompt,chosen,rejected,tie\n1,a,b,yes\n")
    with pytest.raises(InputError, match="line 2: 'tie' must be true or false"):
        read_rows(str(tmp_path / "b.csv"))
    pair = {"prompt": "1", "chosen": "a", "rejected": "b"}
    polars.DataFrame([{**pair, "tie": tie} for tie in (1.0, float("nan"), 0.0)]).write_parquet(tmp_path / "c.parquet")
    assert [row.is_tie for row in read_rows(str(tmp_path / "c.parquet"))] == [True, False, False]


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ('prompt, chosen, rejected\na, "b, c", d\n', {"prompt": "a", "chosen": "b, c", "rejected": "d"}),
        ("prompt,chosen\na, b\n", {"prompt": "a", "chosen": " b"}),
    ],
)
def test_spaces_behind_commas_are_no_text_where_the_header_has_them(
    text: str, fields: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert [row.fields for row in read_rows(str(tmp_path / "a.csv"))] == [fields]


def arrow_file(path: Path, rows: list[dict[str, Any]]) -> None:
    polars.DataFrame(rows).write_ipc(path)


def arrow_stream(path: Path, rows: list[dict[str, Any]]) -> None:
    polars.DataFrame(rows).write_ipc_stream(path, compression="zstd")


@pytest.mark.parametrize(
    ("name", "write"), [("a.arrow", arrow_file), ("a.feather", arrow_file), ("a.arrow", arrow_stream)]
)
def test_arrow_is_read_in_both_its_formats(
    name: str, write: Callable[[Path, list[dict[str, Any]]], None], tmp_path: Path
) -> None:
    rows = [{"messages": [{"role": "user", "content": f"{n}"}], "note": None if n % 2 else n} for n in range(10)]
    write(tmp_path / name, rows)
    assert [row.fields for row in read_rows(str(tmp_path / name))] == rows


def test_an_arrow_stream_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    arrow_stream(tmp_path / "a.arrow", ROWS)
    whole = (tmp_path / "a.arrow").read_bytes()
    for length in (2, 6, 40, len(whole) // 2, len(whole) - 20):
        (tmp_path / "a.arrow").write_bytes(whole[:length])
        with pytest.raises(InputError, match="not a readable Arrow file"):
            read_rows(str(tmp_path / "a.arrow"))


def saved(folder: Path, parts: int) -> None:
    """What datasets' `save_to_disk` writes, as far as it is read."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05}-of-{parts:05}.arrow" for n in range(parts)]
    for number, name in enumerate(names):
        arrow_stream(folder / name, [{"prompt": f"{number}", "chosen": "x"}])
    arrow_stream(folder / "cache-1a2b.arrow", [{"prompt": "no row", "chosen": "x"}])
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")


def test_a_folder_of_save_to_disk_is_read_and_one_of_splits_asks_for_one(tmp_path: Path) -> None:
    saved(tmp_path / "one", 11)
    assert [row.prompt[0]["content"] for row in read_rows(str(tmp_path / "one"))] == [f"{n}" for n in range(11)]
    for split in ("train", "test"):
        saved(tmp_path / "all" / split, 1)
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(InputError, match=r"holds the splits train, test; name one: --data .*/all/train"):
        read_rows(str(tmp_path / "all"))
    assert len(read_rows(str(tmp_path / "all" / "test"))) == 1
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["test"]}')
    assert len(read_rows(str(tmp_path / "all"))) == 1


@pytest.mark.slow
def test_what_datasets_saves_itself_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": [{"role": "user", "content": f"{n}"}], "chosen": "x" * n, "score": n / 2} for n in range(2100)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "one", num_shards=2)
    assert [row.fields for row in read_rows(str(tmp_path / "one"))] == rows


def test_a_folder_says_what_it_does_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    for name in ("b.txt", "README.md", ".hidden.jsonl", "dataset_infos.json", "LICENSE", "cache-0.arrow"):
        (tmp_path / name).write_text("not data")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "c.jsonl").write_text("not data")
    with caplog.at_level(logging.WARNING):
        assert len(read_rows(str(tmp_path))) == 3
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: not read: b.txt, cache-0.arrow"]


@pytest.mark.parametrize("name", ["a.json", "b.json", "c.csv", "d.arrow"])
def test_reading_holds_a_bounded_part_of_a_file(tmp_path: Path, name: str) -> None:
    rows = [{"prompt": f"{n} " + "x" * 1000, "chosen": "y"} for n in range(8000)]
    if name == "d.arrow":
        pyarrow = pytest.importorskip("pyarrow")
        table = pyarrow.Table.from_pylist(rows)
        with pyarrow.ipc.new_stream(tmp_path / name, table.schema) as stream:
            stream.write_table(table, max_chunksize=500)
    else:
        text = {"a.json": json.dumps(rows), "b.json": "\n".join(json.dumps(row, indent=1) for row in rows)}
        (tmp_path / name).write_text(text.get(name) or csv_of(rows))
    tracemalloc.start()
    try:
        count = sum(1 for _ in files.read_file(tmp_path / name))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 8000 and peak < 4_500_000  # of 8 MB


def test_an_object_that_never_ends_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "_LARGEST", 1 << 20)
    rows = "".join('{"prompt": "a", "chosen": "b"},\n' for _ in range(200_000))
    (tmp_path / "a.json").write_text('[{"prompt": {"a",\n' + rows + "]")
    with pytest.raises(InputError, match=r"line 1 \(row 1\): the object that begins here has more than 1 MiB"):
        read_rows(str(tmp_path / "a.json"))


def test_strings_that_cross_pieces_are_whole(tmp_path: Path) -> None:
    rows = [{"prompt": '\\"' * 700_000 + f"{n}", "chosen": "]}," * n} for n in range(3)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert [row.fields for row in read_rows(str(tmp_path / "a.json"))] == rows


def test_a_fingerprint_is_that_of_the_bytes(tmp_path: Path) -> None:
    saved(tmp_path / "one", 2)
    first = Source(str(tmp_path / "one")).fingerprint()
    arrow_stream(tmp_path / "one" / "data-00001-of-00002.arrow", [{"prompt": "other", "chosen": "x"}])
    assert Source(str(tmp_path / "one")).fingerprint() != first


@pytest.mark.parametrize(
    ("line", "twice"),
    [
        ('{"prompt": "a", "prompt": "b"}', "prompt"),
        ('{"prompt":"a", "completion":"c", "prompt":"b"}', "prompt"),
        ('{"messages": [{"role": "user", "content": "a", "content": "b"}], "prompt": "a"}', "content"),
        ('[{"prompt": "a", "x": {"y": 1, "y": 1}}]', "y"),
        ('{"prompt": "a", "completion": "\\"prompt\\": \\"b\\" : c"}', None),
        ('{"prompt": "a", "completion": "b", "x": {"prompt": "a"}}', None),
        ('{"prompt": "ends with a backslash\\\\", "completion": "b"}', None),
    ],
)
def test_a_key_that_an_object_has_twice_is_refused(tmp_path: Path, line: str, twice: str | None) -> None:
    (tmp_path / "a.jsonl").write_text(line + "\n")
    if twice is None:
        assert len(read_rows(str(tmp_path / "a.jsonl"))) == 1
        return
    with pytest.raises(InputError, match=f"line 1.*: an object has the key '{twice}' twice"):
        read_rows(str(tmp_path / "a.jsonl"))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pyarrow.table([["a"], ["b"], ["c"]], names=["prompt", "prompt", "completion"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for name, writer in (("file.arrow", pyarrow.ipc.new_file), ("stream.arrow", pyarrow.ipc.new_stream)):
        with writer(str(tmp_path / name), table.schema) as opened:
            opened.write_table(table)
    for name in ("a.parquet", "file.arrow", "stream.arrow"):
        with pytest.raises(InputError, match=f"{name}: .*column"):
            read_rows(str(tmp_path / name))


def test_a_list_of_messages_under_data_is_a_row_and_no_list_of_rows(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"content": "yes", "role": "assistant"}]
    for data in (turns, turns[::-1], [{"from": "human", "value": "Hi"}]):
        (tmp_path / "a.jsonl").write_text(json.dumps({"data": data}))
        with pytest.raises(InputError, match=r"'data': .*write it as messages"):
            list(read_rows(str(tmp_path / "a.jsonl")))
