"""Votes as a judge and as rows to train on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import tiny_model

from alignkit import api
from alignkit.cli.main import main
from alignkit.config import file as config_file
from alignkit.data.reading.read import read_rows
from alignkit.errors import UsageError
from alignkit.progress import Silent
from alignkit.scoring.ledger import open_ledger
from alignkit.scoring.votes import read_votes
from alignkit.voting.ballots import Ballots
from alignkit.voting.poll import Poll, make_poll


@pytest.fixture
def poll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Poll:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALIGNKIT_LEDGER", "votes.sqlite")
    tiny_model(Path("one"), seed=0)
    tiny_model(Path("other"), seed=1)
    Path("rows.jsonl").write_text("\n".join(json.dumps({"id": f"r{n}", "prompt": f"Say {n}"}) for n in range(30)))
    options = {"vs": "other", "data": "rows.jsonl", "temperature": 1.0, "max_new_tokens": 6}
    made = make_poll("one", config_file.judge_settings(options), data_given=True, progress=Silent())
    assert len(made.pairs) > 20
    return made


def vote_for(ballots: Ballots, voter: str, place: int, what: str) -> None:
    """Vote for "ours" or "theirs", wherever it stands, or "tie" or "skip"."""
    pair = ballots.poll.pairs[place]
    shown = ballots.next(voter)["pair"]
    assert shown["id"] == pair.id  # in the poll's order
    choice = what if what in ("tie", "skip") else ("first" if shown["first"] == getattr(pair, what) else "second")
    ballots.vote(voter, pair.id, choice)


def judged(*more: str, judge: str = "votes") -> list[str]:
    command = ["judge", "one", "--vs", "other", "--data", "rows.jsonl", "--temperature", "1", "--json"]
    return [*command, "--judge", judge, "--max-new-tokens", "6", *more]


def test_the_side_with_more_votes_wins_and_votes_on_other_answers_are_missing(
    poll: Poll, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(judged()) == 2
    assert "there are no votes yet" in capsys.readouterr().err
    ballots = Ballots(poll, open_ledger())
    for place, (ann, bob) in enumerate([("ours", "ours"), ("theirs", "theirs"), ("ours", "theirs"), ("skip", "ours")]):
        vote_for(ballots, "Ann", place, ann)
        vote_for(ballots, "Bob", place, bob)
    num_equal = 30 - len(poll.pairs)  # of equal answers, ties unasked
    assert main(judged()) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_wins"], found["num_losses"], found["num_ties"]) == (2, 1, 1 + num_equal)
    assert found["num_missing"] == len(poll.pairs) - 4
    assert any("nobody voted on this pair" in note for note in found["caveats"])
    lost = 100 * (2 + (1 + num_equal) / 2) / 30  # of 30 prompts, those without a vote as losses
    assert found["if_missing_lost"] == pytest.approx(lost)
    assert found["if_missing_won"] == pytest.approx(lost + 100 * found["num_missing"] / 30)
    assert "votes of: Ann 4 (1 skipped), Bob 4" in found["caveats"]
    assert not any("in the other order" in note for note in found["caveats"])  # nobody was asked in both
    vote_for(ballots, "Ann", 4, "ours")  # a further vote counts at once
    assert main(judged()) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_wins"] == 3
    assert main(judged("--seed", "1")) in (0, 3)  # 3 where no two of these answers are equal
    assert "on other answers than those judged" in "".join(capsys.readouterr())


def test_who_always_presses_one_key_is_said_where_votes_decide(poll: Poll, capsys: pytest.CaptureFixture[str]) -> None:
    ballots = Ballots(poll, open_ledger())
    for place in range(12):
        ballots.vote("Ann", poll.pairs[place].id, "first")
    assert main(judged()) == 0
    caveats = json.loads(capsys.readouterr().out)["caveats"]
    assert "Ann chose the answer shown first in 12 of 12 votes: that is hardly a judgement" in caveats


def test_votes_check_another_judge_and_travel_with_its_evidence(poll: Poll, capsys: pytest.CaptureFixture[str]) -> None:
    Path("length.py").write_text("def length(completion, row):\n    return len(completion)\n")
    assert main(judged(judge="length.py:length")) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["people"] is None
    assert any("the judge is a function of your own" in note for note in verdict["caveats"])
    ballots = Ballots(poll, open_ledger())
    for place in range(12):
        vote_for(ballots, "Ann", place, "ours" if place % 3 else "skip")
    for place in range(12, 16):
        vote_for(ballots, "Ann", place, "theirs")
    assert main(judged("--evidence", "e.json", judge="length.py:length")) == 0
    verdict = json.loads(capsys.readouterr().out)
    people = verdict["people"]
    assert not any("a function of your own" in note for note in verdict["caveats"])
    assert (people["num_voted"], people["num_skipped"], people["voters"]) == (12, 4, {"Ann": 16})
    assert people["alone"]["value"] == pytest.approx(100 * 8 / 12) and people["rate"] is not None
    assert people["agreement"]["is_no_better_than_length"]
    assert any("nothing shows that it judges better than length does" in note for note in verdict["caveats"])
    assert main(["judge", "--from", "e.json"]) == 0
    [said] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("people: would give ")]
    assert "by votes on 12 of " in said and "nothing shows that it judges better than length does" in said
    assert main(["judge", "--from", "e.json", "--details"]) == 0
    assert "win rate people would give" in capsys.readouterr().out


def test_a_poll_goes_on_with_the_answers_and_the_order_it_began_with(poll: Poll) -> None:
    for folder in ("one", "other"):
        Path(folder, "tokenizer.json").unlink()  # nothing could be answered anew
    options = {"vs": "other", "data": "rows.jsonl", "temperature": 1.0, "max_new_tokens": 6}
    again = make_poll("one", config_file.judge_settings(options), data_given=True, progress=Silent())
    assert again == poll
    keys = [pair.key for pair in poll.pairs]
    assert keys == sorted(keys) and all(pair.weight == 1 for pair in poll.pairs)


def test_pairs_on_which_judges_disagree_are_favoured(poll: Poll, capsys: pytest.CaptureFixture[str]) -> None:
    Path("j.py").write_text(
        "def one(completion, row):\n    return len(completion)\n"
        "def other(completion, row):\n    return len(completion) * (1 if int(row['id'][1:]) % 5 else -1)\n"
    )
    options = {"vs": "other", "data": "rows.jsonl", "temperature": 1.0, "max_new_tokens": 6, "seed": 7}
    judges = ["j.py:one", "j.py:other"]

    def made() -> Poll:
        settings = config_file.judge_settings(options)
        return make_poll("one", settings, data_given=True, progress=Silent(), judges=judges)

    with pytest.raises(UsageError, match="the ledger holds no two judges' scores of these answers"):
        made()
    for judge in judges:
        assert main(judged("--seed", "7", judge=judge)) == 0
    pairs = made().pairs
    favoured = {f"Say {n}" for n in range(0, 30, 5)}
    high = [pair.weight for pair in pairs if pair.weight > 1]
    assert 1 <= len(high) <= 6 and all(p.prompt[0]["content"] in favoured for p in pairs if p.weight > 1)
    (low,) = {pair.weight for pair in pairs if pair.weight <= 1}  # D to 1 - D, where they disagree on a share D
    assert low == pytest.approx(high[0] * len(high) / (len(pairs) - len(high)))
    assert sum(pair.weight for pair in pairs) == pytest.approx(len(pairs))
    assert [pair.key for pair in pairs] == sorted(pair.key for pair in pairs)
    assert main(["vote", "one", "--vs", "other", "--favour", "j.py:one"]) == 2
    assert "name at least two" in capsys.readouterr().err


def test_votes_cast_elsewhere_are_kept_all_or_none(poll: Poll, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = poll.pairs[:2]
    rows = [
        {"first": first.theirs, "second": first.ours, "choice": "second", "voter": "Ann"},
        {"first": second.ours, "second": second.theirs, "choice": "tie", "voter": "Ann"},
    ]
    command = ["vote", "one", "--vs", "other", "--data", "rows.jsonl", "--temperature", "1", "--max-new-tokens", "6"]

    def imported(lines: list[dict[str, str]]) -> int:
        Path("votes.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return main([*command, "--import", "votes.jsonl"])

    assert imported([rows[0], rows[1] | {"second": "another"}]) == 2
    assert "votes.jsonl, line 2: first and second are no pair of this poll's answers" in capsys.readouterr().err
    assert imported([rows[0], rows[1] | {"choice": "both"}]) == 2
    assert imported([rows[0], rows[1] | {"voter": ""}]) == 2
    assert read_votes(open_ledger()) == []
    capsys.readouterr()
    assert imported(rows) == 0
    assert "2 new votes from votes.jsonl" in capsys.readouterr().out
    assert [vote.for_answer(vote.second) for vote in read_votes(open_ledger())] == [1.0, 0.5]
    assert imported(rows) == 0
    assert "0 new votes from votes.jsonl, 2 already there" in capsys.readouterr().out


def test_decided_pairs_are_rows_to_train_on(poll: Poll, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no votes yet"):
        api.vote_export("rows-of-votes.jsonl")
    ballots = Ballots(poll, open_ledger())
    for place, what in enumerate(["ours", "theirs", "tie", "skip"]):
        vote_for(ballots, "Ann", place, what)
    assert len(read_votes(open_ledger())) == 4
    assert main(["vote", "--export", "rows-of-votes.jsonl"]) == 0
    assert "2 pairs written" in capsys.readouterr().out
    rows = read_rows("rows-of-votes.jsonl")
    first, second = poll.pairs[:2]
    assert [row.prompt for row in rows] == [tuple(first.prompt), tuple(second.prompt)]
    sides = [(row.chosen[0]["content"], row.rejected[0]["content"]) for row in rows]  # type: ignore[index]
    assert sides == [(first.ours, first.theirs), (second.theirs, second.ours)]
    assert main(["vote", "--export", "rows-of-votes.jsonl"]) == 2  # nothing is overwritten


def test_votes_are_a_data_set_that_dpo_trains_on(poll: Poll, capsys: pytest.CaptureFixture[str]) -> None:
    train = [
        "train",
        "dpo",
        "--model",
        "one",
        "--data",
        "votes",
        "--out",
        "run",
        "--max-steps",
        "1",
        "--split",
        "first-2",
    ]
    train += ["--precision", "fp32", "--batch-size", "2", "--max-length", "200", "--max-new-tokens", "2"]
    assert main(train) == 2
    assert "there are no votes yet" in capsys.readouterr().err
    ballots = Ballots(poll, open_ledger())
    vote_for(ballots, "Ann", 0, "tie")
    for place in range(1, 8):
        vote_for(ballots, "Ann", place, "ours" if place % 2 else "theirs")
    rows = read_rows("votes")
    assert [row.id for row in rows] == [f"vote-{pair.id}" for pair in poll.pairs[1:8]]
    (chosen,) = rows[0].chosen or ()
    assert chosen["content"] == poll.pairs[1].ours
    assert main(train) == 0
