"""The files that `alignkit data audit` writes: what is refused before anything is read, and what is said of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from alignkit import api
from alignkit.cli.main import main

ROWS = [
    {"id": f"r{n}", "prompt": f"Question {n}?", "chosen": f"Yes, {n}.", "rejected": f"No, not {n}."} for n in range(5)
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a set, a file of tests, and links to the set."""
    monkeypatch.chdir(tmp_path)
    write("b.jsonl", ROWS)
    write("t.jsonl", ROWS[:1])
    Path("soft.jsonl").symlink_to("b.jsonl")
    Path("hard.jsonl").hardlink_to("b.jsonl")
    Path("loop.html").symlink_to("page.html")
    Path("there").mkdir()
    os.mkfifo("pipe")
    Path("circle").symlink_to("circle")


def write(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def shown(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["data", "audit", *arguments]) == code
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if not line.startswith("audit: ")]  # the others say what is being done
    assert code == 0 or (len(errors) == 1 and not out)
    return " ".join((out or "".join(errors)).split())


READ = "rows are read from this file"
BY_ANOTHER = "writes this file"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--page", "b.jsonl"], READ),
        (["--list", "b.jsonl"], READ),
        (["--list", "soft.jsonl"], READ),
        (["--page", "./there/../hard.jsonl"], READ),
        (["--test", "t.jsonl", "--page", "t.jsonl"], READ),
        (["--test", "t.jsonl", "--list", "t.jsonl"], READ),
        (["--test", "t.jsonl", "--write-clean", "t.jsonl"], READ),
        (["--list", "o.jsonl", "--page", "./o.jsonl"], BY_ANOTHER),
        (["--list", "page.html", "--page", "loop.html"], BY_ANOTHER),
        (["--list", "o.jsonl", "--write-clean", "o.jsonl"], BY_ANOTHER),
        (["--list", "o.removed.jsonl", "--write-clean", "o.jsonl"], BY_ANOTHER),
        (["--page", "none/p.html"], "nothing can be written into none"),
        (["--list", "none/l.jsonl"], "nothing can be written into none"),
        (["--write-clean", "none/c.jsonl"], "nothing can be written into none"),
        (["--write-clean", "b.jsonl/c.jsonl"], "nothing can be written into b.jsonl"),
        (["--list", "/proc/l.jsonl"], "nothing can be written into /proc"),
        (["--page", "there"], "is a folder"),
        (["--list", "pipe"], "is no ordinary file"),
        (["--write-clean", "b.jsonl"], READ),
        (["--write-clean", "circle/c.jsonl"], "nothing can be written into circle"),
        (["--list", ""], "the name is empty"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_a_row_is_read(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("b.jsonl", "a") as file:
        file.write("no JSON\n")  # reading would stop here
    before = {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()}
    assert said in shown(capsys, "--data", "b.jsonl", *arguments, code=2)
    assert {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["c.jsonl", "c.removed.jsonl"])
def test_a_cleaned_set_replaces_no_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_text("mine\n")
    said = shown(capsys, "--data", "b.jsonl", "--write-clean", "c.jsonl", code=2)
    assert f"{name} exists; name another file, or remove it" in said
    assert Path(name).read_text() == "mine\n"


def test_the_end_names_every_file_with_its_count(capsys: pytest.CaptureFixture[str]) -> None:
    unusable = [
        {"prompt": "Why?", "chosen": "So.", "rejected": "So."},
        {"prompt": "Who?", "chosen": " ", "rejected": "I."},
    ]
    write("b.jsonl", [*ROWS, *unusable, ROWS[0] | {"id": "again"}])
    said = shown(capsys, "--data", "b.jsonl", "--write-clean", "c.jsonl", "--list", "l.jsonl", "--page", "p.html")
    assert "c.jsonl: the 5 rows that stay" in said
    assert "c.removed.jsonl: 3 rows taken out: 1 " in said
    for reason in ("1 chosen equals rejected", "1 empty chosen answer", "1 says nearly the same"):
        assert reason in said
    assert "l.jsonl: 0 pairs" in said and "too few pairs to look for flips" in said
    assert "p.html: the page" in said
    assert Path("l.jsonl").read_bytes() == b"" and Path("p.html").exists()
    kept = [json.loads(line)["id"] for line in Path("c.jsonl").read_text().splitlines()]
    assert kept == [row["id"] for row in ROWS]


def test_an_empty_cleaned_set_is_said_to_be_empty(capsys: pytest.CaptureFixture[str]) -> None:
    write("b.jsonl", [{"prompt": "Why?", "chosen": "So.", "rejected": "So."}])
    assert "warning: the cleaned set is empty" in shown(capsys, "--data", "b.jsonl", "--write-clean", "c.jsonl")


def test_what_other_rows_are_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": "Why?", "chosen": "So.", "rejected": ""},
        {"prompt": "Why?"},
        {"prompt": "Why?", "chosen": "So."},
    ]
    write("b.jsonl", [*ROWS, *rows])
    said = shown(capsys, "--data", "b.jsonl")
    assert "3 other rows: 1 unusable (empty rejected answer), 1 prompts alone, 1 single answers" in said
    assert "Rows that methods skip: 1" in said


def test_labelled_answers_are_counted_by_label(capsys: pytest.CaptureFixture[str]) -> None:
    write("b.jsonl", [{"prompt": f"{n}?", "completion": f"{n}", "label": n < 2} for n in range(5)])
    assert "5 answers with a label (2 good, 3 bad)" in shown(capsys, "--data", "b.jsonl")


def test_outputs_inside_a_folder_that_is_read_are_refused_and_a_page_is_as_the_umask_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("set").mkdir()
    write("set/a.jsonl", [{"prompt": "Hi", "chosen": "yes", "rejected": "no"}])
    for option in ("--write-clean", "--list"):
        said = shown(capsys, "--data", "set", option, "set/x.jsonl", code=2)
        assert f"{option} set/x.jsonl: it would stand in set, a folder whose files are all read as rows" in said
    shown(capsys, "--data", "set", "--page", "set/x.html", "--list", "x.jsonl")
    mask = os.umask(0o022)
    os.umask(mask)
    for name in ("set/x.html", "x.jsonl"):
        assert Path(name).stat().st_mode & 0o777 == 0o666 & ~mask


def test_fields_may_be_left_unread(capsys: pytest.CaptureFixture[str]) -> None:
    write("b.jsonl", [row | {"score_chosen": True, "score_rejected": 1} for row in ROWS])
    assert "--ignore-fields score_chosen" in shown(capsys, "--data", "b.jsonl", code=2)
    assert "5 pairs" in shown(capsys, "--data", "b.jsonl", "--ignore-fields", "score_chosen")


def test_an_interruption_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "data_audit", interrupted)
    assert shown(capsys, "--data", "b.jsonl", "--page", "p.html", code=130) == (
        "alignkit: interrupted; nothing was written"
    )
