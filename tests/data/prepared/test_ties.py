"""Which pairs train: ties, small margins, the row's own margin; what is counted, and what it does to the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from places import REAL_ROWS, lines_of
from tiny_models import tiny_tokenizer

from alignkit.cli.main import main
from alignkit.config.settings import DataSection, ModelSection
from alignkit.data.chat.chat import CHATML, Chat, make_chat
from alignkit.data.prepared.selection import Selection
from alignkit.data.prepared.store import Stored
from alignkit.data.reading.rows import to_row, unusable_reason
from alignkit.errors import InputError
from alignkit.pretrained.names import find_model
from alignkit.registry import registry
from alignkit.units import SMALL_MARGIN, TIE, Chosen, Pairs, Samples

PAIR = {"prompt": "Hi", "chosen": "yes", "rejected": "no"}


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALIGNKIT_CACHE", str(tmp_path / "cache"))
    tiny_tokenizer(tmp_path / "model", template=CHATML)
    return make_chat(find_model("model", tokenizer_is_enough=True), ModelSection(model="model"))


def write(rows: list[dict[str, Any]]) -> None:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def scored(*scores: tuple[float, float] | None) -> list[dict[str, Any]]:
    """A pair for each two scores, and a row behind them that validates."""
    rows = [
        {"id": f"r{n}", "prompt": f"Say {n}.", "chosen": f"yes {n}", "rejected": "no"}
        | ({} if pair is None else {"score_chosen": pair[0], "score_rejected": pair[1]})
        for n, pair in enumerate(scores)
    ]
    return [{"id": "held", "prompt": "Say more.", "chosen": "yes", "rejected": "no"}, *rows]


def prepared(chat: Chat, unit: Any, **section: Any) -> Stored:
    options = {"unit": unit, "max_length": 10_000, "train_on": None, "whole_answer": False}
    selection = Selection(DataSection(data="rows.jsonl", split="first-1", **section))
    return selection.prepare("training", chat, options)


def labels_of(stored: Stored) -> list[tuple[float, ...]]:
    return [tree.labels for tree in stored.trees]


def test_ties_are_dropped_kept_or_halved_and_counted_each_time(chat: Chat) -> None:
    write(scored((7, 5), (6, 6), (4, 4.0), (3, 8), None))
    dropped, kept, halved = (prepared(chat, Pairs(ties=ties)) for ties in ("drop", "keep", "half"))
    assert dropped.left_out == {"r1": TIE, "r2": TIE} and dropped.skipped == {}
    assert [tree.row_id for tree in dropped.trees] == ["r0", "r3", "r4"]
    assert [row.id for row in kept.rows] == [row.id for row in halved.rows] == ["r0", "r1", "r2", "r3", "r4"]
    assert kept.left_out == halved.left_out == {}
    assert (dropped.num_ties, kept.num_ties, halved.num_ties) == (2, 2, 2)
    assert (dropped.num_reversed, kept.num_reversed, halved.num_reversed) == (1, 1, 1)
    assert labels_of(dropped) == [()] * 3 and labels_of(kept) == [()] * 5
    assert labels_of(halved) == [(1, 0), (0, 0), (0, 0), (1, 0), (1, 0)]
    assert len({dropped.fingerprint, kept.fingerprint, halved.fingerprint}) == 3  # a resume sees the change


def test_the_cache_knows_which_pairs_an_option_chose(chat: Chat) -> None:
    write(scored((7, 5), (6, 6), (4, 3)))
    units = [Pairs(), Pairs(ties="keep"), Pairs(ties="half"), Pairs(min_margin=1.5), Pairs(reads_margins=True)]
    for unit in units[:4]:
        assert not prepared(chat, unit).from_cache
    for unit in units[:4]:
        assert prepared(chat, unit).from_cache


def test_ties_are_rows_for_methods_that_compare_nothing() -> None:
    tie = to_row({**PAIR, "score_chosen": 5, "score_rejected": 5}, where="here")
    for unit in (Chosen(), Samples(), Pairs(ties="keep"), Pairs(ties="half")):
        assert unusable_reason(tie, unit) is None
    assert unusable_reason(tie, Pairs()) == TIE
    same = to_row({**PAIR, "rejected": "yes", "score_chosen": 5, "score_rejected": 5}, where="here")
    assert [unusable_reason(same, Pairs(ties=ties)) for ties in ("drop", "keep", "half")] == [TIE] * 3
    assert TIE not in Chosen.left_out and TIE in Pairs.left_out


def test_openbmbs_scores_are_the_best_and_the_worst_completions() -> None:
    answers = [{"response": text, "overall_score": score} for text, score in (("a", 3), ("b", 8), ("c", 1))]
    row = to_row({"instruction": "Hi", "completions": answers}, where="here")
    assert row.scores == (8, 1) and row.difference == 7 and not row.is_tie
    assert unusable_reason(row, Pairs(min_margin=7)) is None
    assert unusable_reason(row, Pairs(min_margin=7.5)) == SMALL_MARGIN
    own = to_row({**PAIR, "completions": answers}, where="here")  # beside a pair, a column of the user's own
    assert own.scores is None


def test_small_margins_are_left_out_both_ways_and_pairs_without_scores_are_kept_and_counted(chat: Chat) -> None:
    write(scored((7, 5), (6, 5.5), (5, 5.5), (5, 8), (4, 4), None))
    found = prepared(chat, Pairs(min_margin=1.0))
    assert found.left_out == {"r1": SMALL_MARGIN, "r2": SMALL_MARGIN, "r4": TIE}
    assert [row.id for row in found.rows] == ["r0", "r3", "r5"] and found.num_unscored == 1
    assert [row.id for row in prepared(chat, Pairs(min_margin=1.0, ties="half")).rows] == ["r0", "r3", "r4", "r5"]
    write(scored(None, None))
    with pytest.raises(InputError, match=r"none of the 2 pairs has scores, which --min-margin reads: .*--columns"):
        prepared(chat, Pairs(min_margin=1.0))
    write([row if row["id"] == "held" else {**row, "score_chosen": "7,5", "score_rejected": 7} for row in scored(None)])
    unread = r"^rows.jsonl: score_chosen '7,5' is no number: .*; write 7.5: --min-margin finds no scores in 1 pairs?$"
    for _ in range(2):  # prepared anew, and from the cache
        with pytest.raises(InputError, match=unread):
            prepared(chat, Pairs(min_margin=1.0))


def test_what_is_left_out_on_purpose_is_not_held_against_the_rows(chat: Chat) -> None:
    write([*scored((6, 6), (6, 6), (7, 6.9), (9, 1), (8, 1)), {"prompt": "Say.", "chosen": "a", "rejected": "a"}])
    with pytest.raises(InputError, match=r"1 of 3 rows \(33\.3 %\) cannot be used.* 1 chosen equals rejected"):
        prepared(chat, Pairs(min_margin=1.0))
    found = prepared(chat, Pairs(min_margin=1.0), max_skipped=0.34)
    assert len(found.trees) == 2 and len(found.left_out) == 3 and len(found.skipped) == 1
    write(scored((6, 6), (5, 5)))
    with pytest.raises(InputError, match=r"none of the 2 rows can be used: 2 tie: equal scores \(r0, r1\)"):
        prepared(chat, Pairs())


def test_a_margin_is_the_rows_own_else_the_difference_of_its_scores(chat: Chat) -> None:
    rows = scored((7, 5), (7, 5), (3, 4), (2, 2), None)
    rows[2]["margin"], rows[5]["margin"] = 0.25, "3"
    write(rows)
    found = prepared(chat, Pairs(ties="half", reads_margins=True))
    assert labels_of(found) == [(2, 0), (0.25, 0), (-1, 0), (0, 0), (3, 0)]
    write(scored((7, 5), None))
    with pytest.raises(InputError, match="1 neither scores nor a margin, which --margin reads"):
        prepared(chat, Pairs(reads_margins=True))


def test_a_margin_that_nothing_reads_is_refused_by_name() -> None:
    row = to_row({**PAIR, "margin": 0.5}, where="here")
    assert "'margin' is not read: give reward --margin 1" in (unusable_reason(row, Pairs()) or "")
    for unit in (Pairs(reads_margins=True), Pairs(min_margin=0.1), Chosen(), Samples()):
        assert unusable_reason(row, unit) is None
    assert unusable_reason(to_row({**PAIR, "margin": 0.5}, where="here", columns={"margin": ""}), Pairs()) is None
    assert unusable_reason(row, Pairs(min_margin=1)) == SMALL_MARGIN
    for margin in (0, None, float("nan"), ""):
        assert unusable_reason(to_row({**PAIR, "margin": margin}, where="here"), Pairs()) is None
    for wrong in (True, False, "big", [1], {"a": 1}, float("inf")):
        with pytest.raises(InputError, match=r"^here: 'margin' must be a number, found"):
            to_row({**PAIR, "margin": wrong}, where="here")


@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_options_choose_the_pairs_on_the_command_line(
    method: str, chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    write(scored((7, 5), (6, 5.5), (4, 4), (3, 9)))
    command = ["data", "prepare", "--method", method, "--model", "model", "--data", "rows.jsonl", "--split", "first-1"]
    assert main([*command, "--set", "ties=half", "--set", "min_margin=1"]) == 0
    said = capsys.readouterr().out
    assert f"training: 1 left out: {SMALL_MARGIN}" in said and "training: 1 of the pairs used are ties" in said
    assert "training: 1 of the pairs used have scores (or a margin) that prefer the rejected answer" in said
    assert main([*command, "--set", "ties=half", "--set", "min_margin=1", "--json"]) == 0
    account = json.loads(capsys.readouterr().out)["training"]
    assert (account["used"], account["ties"], account["left_out"]) == (3, 1, {"r1": SMALL_MARGIN})
    assert (account["skipped"], account["reversed"], account["from_cache"]) == ({}, 1, True)


def test_help_shows_what_is_done_with_ties_and_help_all_the_other_options(capsys: pytest.CaptureFixture[str]) -> None:
    for method, names in (("dpo", ("--ties", "--min-margin")), ("reward", ("--ties", "--min-margin", "--margin"))):
        assert main(["train", method, "--help-all"]) == 0
        shown = capsys.readouterr().out
        assert all(f"{name} " in shown for name in names)
        assert main(["train", method, "--help"]) == 0
        shown = capsys.readouterr().out
        assert "--ties " in shown and "--min-margin " not in shown
    assert "ties" not in registry().find("method", "sft").Config.model_fields  # type: ignore[attr-defined]


def test_a_ninth_of_real_ultrafeedback_are_ties() -> None:
    lines = [line for line in lines_of(REAL_ROWS) if line.get("source", "").startswith("ultrafeedback")]
    rows = [to_row(line, where="here") for line in lines]
    assert len(rows) == 999 and sum(row.is_tie for row in rows) == 111
    reasons = [unusable_reason(row, Pairs()) for row in rows]
    assert reasons.count(TIE) == 111
    ties = [row for row in rows if row.is_tie]
    halved = [unusable_reason(row, Pairs(ties="half")) for row in ties]
    assert (halved.count(None), halved.count(TIE)) == (110, 1)  # one has two equal answers
    assert [unusable_reason(row, unit) for row in ties for unit in (Chosen(), Samples())] == [None] * 222
