"""`alignkit data lengths` and `prepare` as commands, on a tokenizer folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_tokenizer

from alignkit.cli.main import main
from alignkit.data.chat.chat import CHATML
from alignkit.data.looking.lengths import DIFFERENCE, ROW


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a tokenizer folder, a cache of its own, and rows of which two are the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALIGNKIT_CACHE", str(tmp_path / "cache"))
    tiny_tokenizer(tmp_path / "model", template=CHATML)
    Path("model/config.json").write_text('{"max_position_embeddings": 512}')
    rows = [{"id": f"r{n}", "prompt": f"Say {n}.", "chosen": "y" * n, "rejected": "no"} for n in range(1, 41)]
    rows.append(rows[4] | {"id": "twin"})
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["data", *arguments, "--model", "model", "--data", "rows.jsonl", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_lengths_of_whole_rows_and_of_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    with open("rows.jsonl", "a") as file:
        file.write(json.dumps({"prompt": "alone"}) + "\n" + json.dumps({"prompt": "Say", "chosen": "yes"}) + "\n")
    columns = {column["column"]: column for column in printed(capsys, "lengths")}
    assert [(name, column["count"]) for name, column in columns.items()] == [
        ("prompt", 43),
        ("chosen", 42),
        ("rejected", 41),
        (ROW, 43),
        (DIFFERENCE, 41),
    ]
    assert (columns[DIFFERENCE]["min"], columns[DIFFERENCE]["max"]) == (-1, 38)
    assert columns[ROW]["max"] == columns["prompt"]["max"] + 41  # 40 letters and the end token
    assert main(["data", "lengths", "--model", "model", "--data", "rows.jsonl"]) == 0
    shown = capsys.readouterr().out
    assert f"\n{DIFFERENCE}, tokens\n" in shown
    assert shown.count("will be cut at 512: 0 (0.0 %), at 1,024: 0 (0.0 %), at 2,048: 0 (0.0 %)") == 1


def test_lengths_of_labelled_answers_are_those_of_good_and_bad_ones(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"Say {n}.", "completion": "y" * n, "label": n % 2} for n in range(1, 7)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {column["column"]: column for column in printed(capsys, "lengths")}
    assert {name: column["count"] for name, column in columns.items()} == {"prompt": 6, "answer": 6, ROW: 6}
    assert (columns["answer"]["min"], columns["answer"]["max"]) == (2, 7)
    assert main(["data", "show", "--model", "model", "--data", "rows.jsonl", "--limit", "2", "--json"]) == 0
    good, bad = map(json.loads, capsys.readouterr().out.splitlines())
    assert [sum(row["completions"][0]["scored"]) for row in (good, bad)] == [2, 3]  # the end token too
    assert (good["note"], bad["note"]) == ("marked good", "marked bad")


def test_preparing_fills_the_cache_and_accounts_for_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["prepare", "--method", "dpo", "--split", "first-10", "--max-length", "60", "--truncation", "drop-row"]
    first = printed(capsys, *options)
    assert (first["training"]["used"], first["training"]["dropped"]) == (23, 7)  # 26 + n + 1 tokens
    assert (first["validation"]["used"], first["duplicates"]) == (11, 1)  # the twin's prompt is one of them
    assert first["rows"] == 6 and 0 < first["fill"] < 1  # 23 pairs, four per step
    assert not first["training"]["from_cache"]
    second = printed(capsys, *options, "--set", "train.seed=7", "--ranks", "2")
    assert second["training"]["from_cache"] and second["validation"]["from_cache"]
    assert second["balance"] == 2.0  # one row, two ranks
    fewer = printed(capsys, *options, "--set", "model.micro_batch_tokens=60")
    assert fewer["micro_batch_tokens"] == 60 and first["rows"] < fewer["rows"] <= 23


@pytest.mark.parametrize("method", ["sft", "kto"])  # kto makes two rows of each
def test_shards_are_put_together_by_the_preparation_of_the_whole(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["prepare", "--method", method, "--split", "0.2"]
    shards = [printed(capsys, *options, "--shard", f"{n}/3") for n in (1, 2, 3)]
    whole = printed(capsys, *options)
    for part in ("training", "validation"):
        assert whole[part]["used"] == sum(shard[part]["used"] for shard in shards)
        assert whole[part]["tokens"] == sum(shard[part]["tokens"] for shard in shards)
    assert whole["duplicates"] == 1 and "fill" in whole and "fill" not in shards[0]
    assert main(["data", *options, "--model", "model", "--data", "rows.jsonl"]) == 0
    shown = capsys.readouterr().out
    assert "rows that repeat an earlier one exactly: 1" in shown
    assert "packed per step: " in shown and " rows of 4,096 tokens, " in shown


def test_a_tokenizer_alone_is_enough_and_ties_and_odd_turns_are_counted_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("model/config.json").unlink()
    pairs = [
        {"prompt": f"{n}", "chosen": "a", "rejected": "b", "score_chosen": n % 2, "score_rejected": 1}
        for n in range(10)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    account = printed(capsys, "prepare", "--method", "dpo", "--split", "first-2")
    assert (account["training"]["used"], account["training"]["ties"], account["max_length"]) == (4, 4, 2048)
    assert account["validation"]["ties"] == 1
    assert main(["data", "prepare", "--method", "dpo", "--model", "model", "--data", "rows.jsonl"]) == 0
    assert "left out: tie: equal scores" in capsys.readouterr().out
    assert main(["data", "show", "--model", "model", "--data", "rows.jsonl", "--limit", "2"]) == 0
    said = capsys.readouterr()
    assert "rows.jsonl, line 2 (tie: equal scores)" in said.out and said.err == ""
    assert main(["data", "show", "--model", "model", "--data", "rows.jsonl"]) == 0
    assert "the first 5 rows; --limit N shows more" in capsys.readouterr().err
    assert printed(capsys, "lengths")[0]["count"] == 10


def test_conversations_that_end_with_the_user_are_trained_on_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    turns = [[{"role": role, "content": f"x{n}"} for role in ("user", "assistant", "user", "user")] for n in range(4)]
    Path("rows.jsonl").write_text(
        "".join(json.dumps({"messages": own[: 4 - n // 3]}) + "\n" for n, own in enumerate(turns))
    )
    account = printed(capsys, "prepare", "--method", "sft", "--split", "first-1")
    assert [account["training"][key] for key in ("used", "ends_with_user", "user_twice")] == [3, 3, 2]
    whole = account["training"]["tokens"]
    Path("rows.jsonl").write_text("".join(json.dumps({"messages": own[:2]}) + "\n" for own in turns))
    assert (
        printed(capsys, "prepare", "--method", "sft", "--split", "first-1")["training"]["tokens"] == whole
    )  # nothing after the answer
    rows = [{"messages": own} for own in turns]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (
        main(["data", "prepare", "--method", "sft", "--train-on", "last", "--model", "model", "--data", "rows.jsonl"])
        == 2
    )
    assert "the conversation ends with the user, two user turns in a row" in capsys.readouterr().err


COMMANDS = (["show"], ["lengths"], ["audit"], ["overlap", "--with", "other.jsonl"], ["prepare", "--method", "dpo"])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_says_what_is_odd_in_rows(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "And you?"}]
    rows = [{"prompt": f"Say {n}.", "chosen": "yes", "rejected": "no", "chat": chat, "split": "test"} for n in range(9)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("other.jsonl").write_text('{"prompt": "What is there?"}')
    model = ["--model", "model"] if command[0] != "overlap" else []
    assert main(["data", *command, "--data", "rows.jsonl", *model]) == 0
    said = capsys.readouterr().err
    assert said.count("rows have a conversation in 'chat', whose turns are not read") == 1
    assert said.count("rows have the split 'test', and are read like all others") == 1


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_a_shard_that_is_none_is_refused(shard: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["data", "prepare", "--method", "sft", "--model", "model", "--data", "rows.jsonl", "--shard", shard]) == 2
    )
    assert f"--shard {shard}: write i/n with i from 1 to n" in capsys.readouterr().err


BOUNDS = [("prepare", "--ranks", 65_536), ("overlap", "--words", 10_000)]


@pytest.mark.parametrize(("command", "option", "most"), BOUNDS)
def test_a_number_that_no_computer_counts_to_is_refused(
    command: str, option: str, most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"prepare": ["--method", "sft", "--model", "model"], "overlap": ["--with", "rows.jsonl"]}
    rows = ["--data", "rows.jsonl", *given[command]]
    for number in ("0", str(most + 1), "1" + "0" * 25):
        assert main(["data", command, *rows, option, number]) == 2
        assert f"{option} {number}: give a number from 1 to {most:,}" in capsys.readouterr().err
    assert main(["data", command, *rows, option, str(most)]) == 0


def test_scoring_all_turns_is_refused_where_a_method_trains_on_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("dpo", "sft-lenpen", "grpo"):
        command = ["data", "prepare", "--method", method, "--model", "model", "--data", "rows.jsonl"]
        assert main([*command, "--train-on", "all-assistant"]) == 2
        assert f"--train-on all-assistant: {method} trains on the last answer" in capsys.readouterr().err
