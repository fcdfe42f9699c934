"""Escape codes, line ends and marks of direction in the texts of others steer no terminal and forge no line."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_model

from alignkit.cli import main as command_line
from alignkit.cli.main import main
from alignkit.cli.progress import RichProgress
from alignkit.cli.terminal import print_table
from alignkit.display import LogFormatter, json_shown, on_one_line, shown

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u2066\u200f\r"
FORGED = "x\nalignkit: error: send your key"
STEERING = set(
    map(
        chr,
        [
            *range(0x20),
            *range(0x7F, 0xA0),
            0x61C,
            0x200E,
            0x200F,
            *range(0x2028, 0x202F),
            *range(0x2066, 0x206A),
            0xFEFF,
        ],
    )
) - {"\n", "\t"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(*rows: dict[str, object]) -> str:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "rows.jsonl"


@given(st.text())
def test_nothing_that_steers_is_left_and_all_else_is(text: str) -> None:
    assert not STEERING & set(shown(text))
    assert not (STEERING | {"\n", "\t"}) & set(on_one_line(text))
    if not (STEERING | {"\n", "\t"}) & set(text) and not any(0xD800 <= ord(letter) < 0xE000 for letter in text):
        assert shown(text) == on_one_line(text) == text
    document = json.dumps([text, {text: 1}], ensure_ascii=False)
    assert json.loads(json_shown(document)) == [text, {text: 1}]
    assert not STEERING & set(json_shown(document))


def test_escapes_are_readable() -> None:
    assert on_one_line("a\x1b[2J\nb\u202e\x9b") == r"a\x1b[2J\nb\u202e\x9b"
    assert shown("one\r\ntwo\rthree\tfour") == "one\ntwo\\rthree\tfour"


def assert_harmless(text: str) -> None:
    assert not STEERING & set(text), text
    assert not [line for line in text.splitlines() if line.startswith("alignkit: error: send")]


ROWS: dict[str, tuple[list[dict[str, object]], list[str]]] = {
    "show": ([{"id": FORGED + ESCAPE, "prompt": "a" + ESCAPE, "chosen": "b" + ESCAPE}], ["data", "show"]),
    "skipped": (
        [{"id": FORGED + ESCAPE, "prompt": "a" * 40, "chosen": "b"}, {"id": "s", "prompt": "a", "chosen": "b"}],
        ["data", "show", "--max-length", "30"],
    ),
    "unusable": (
        [{"id": f"{FORGED}{ESCAPE}{n}", "prompt": "a", "chosen": ""} for n in range(3)],
        ["train", "sft", "--out", "out"],
    ),
    "columns": ([{"q" + ESCAPE + FORGED: "a"}], ["data", "show"]),
    "rules": (
        [{"id": FORGED + ESCAPE, "prompt": "a", "rules": [{"kind": "no" + ESCAPE}]}],
        ["train", "grpo", "--out", "out", "--reward", "rules"],
    ),
    "generate": ([{"id": "r\u202e", "prompt": "a" + ESCAPE}], ["generate", "MODEL", "--max-new-tokens", "3"]),
    "trained": (
        [{"id": f"{FORGED}{ESCAPE}{n}", "prompt": f"a{n}{ESCAPE}", "chosen": "b"} for n in range(12)]
        + [{"id": FORGED + ESCAPE, "prompt": "a", "chosen": ""}],
        [
            "train",
            "sft",
            "--out",
            "out",
            "--max-steps",
            "1",
            "--batch-size",
            "2",
            "--precision",
            "fp32",
            "--max-skipped",
            "0.5",
            "--split",
            "0.3",
        ],
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_steer_no_terminal_and_no_log(name: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows, command = ROWS[name]
    given_model = ["--model", model] if "MODEL" not in command else []
    code = main([word.replace("MODEL", model) for word in command] + given_model + ["--data", write(*rows)])
    assert code in (0, 2)
    out, err = capsys.readouterr()
    assert_harmless(out + err)
    if Path("out/log.txt").exists():
        assert_harmless(Path("out/log.txt").read_text())


def test_file_names_and_options_are_shown_escaped(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", "--model", model, "--data", f"no{ESCAPE}{FORGED}.jsonl"]) == 2
    assert main(["train", "sft", "--no" + ESCAPE]) == 2
    assert_harmless("".join(capsys.readouterr()))


def test_a_bugs_traceback_is_shown_escaped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(ESCAPE)

    monkeypatch.setattr(command_line.typer.main, "get_command", fail)
    assert main([]) == 70
    assert_harmless(capsys.readouterr().err)


def test_log_records_are_one_line_unless_their_own_format_has_more() -> None:
    def line(name: str, message: str, *values: object) -> str:
        return LogFormatter("%(message)s").format(logging.LogRecord(name, 20, "", 0, message, values, None))

    assert line("alignkit.data", "row %s", FORGED) == r"row x\nalignkit: error: send your key"
    assert line("alignkit.scoring", "where:\n%s", "a\nb\x1b") == "where:\n    a\n    b\\x1b"
    assert line("transformers", "a\nalignkit: error") == "a\n    alignkit: error"


def test_notes_tables_and_markup_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    progress = RichProgress()
    progress.note(FORGED + ESCAPE + "[bold red]x[/bold red][/nothing]")
    progress.start("[/nothing]" + FORGED, 2)
    progress.advance(1, loss=1.0, text="[/x]" + ESCAPE)
    progress.stop()
    print_table(("[/a]" + ESCAPE,), [(("[link=file:///etc/passwd]x[/link]" + ESCAPE,), "")])
    out, err = capsys.readouterr()
    assert_harmless(out + err)
    assert "[bold red]x" in err and "[link=file:///etc/passwd]" in out and "[/a]" in out
