"""Votes as preference rows, to train on, and votes that were cast elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.errors import InputError, UsageError
from alignkit.judging.judgements import read_lines
from alignkit.scoring.ledger import Ledger, open_ledger
from alignkit.scoring.votes import (
    CHOICES,
    Vote,
    Votes,
    damaged,
    find_poll,
    keep_vote,
    prompt_hash,
    read_votes,
    text_hash,
)
from alignkit.storage import open_private
from alignkit.voting.ballots import Ballots, name_of, text_of
from alignkit.voting.poll import as_poll


@dataclass(frozen=True)
class Exported:
    """How many pairs were written, and how many left out since the votes on them are even, or all skips."""

    num_rows: int
    num_even: int
    num_skipped: int


@dataclass(frozen=True)
class Imported:
    """How many votes of a file are new, and how many were in the ledger, or higher up in the file, already."""

    num_new: int
    num_known: int


def export(ledger: Ledger, path: Path) -> Exported:
    """Write a row for each pair that more voters decided one way than the other: prompt, chosen, rejected.

    Raises:
        UsageError: there are no votes, or the file cannot be written; one that is there is not overwritten.
    """
    rows = _rows_or_reasons(ledger)
    decided = [row for row in rows if isinstance(row, dict)]
    try:
        with open(path, "x", encoding="utf-8", opener=open_private) as file:
            file.writelines(json.dumps(row) + "\n" for row in decided)
    except OSError as error:
        raise UsageError(f"--export {path}: cannot be written ({error.strerror}); name another file") from error
    return Exported(len(decided), rows.count("even"), rows.count("skipped"))


def voted_rows() -> list[dict[str, Any]]:
    """A preference row for each pair in the ledger that people decided, as `export` writes them.

    Raises:
        UsageError: there are no votes, or people decided no pair.
    """
    decided = [row for row in _rows_or_reasons(open_ledger()) if isinstance(row, dict)]
    if not decided:
        raise UsageError("people decided no pair: all votes are even, or skips; collect more with `alignkit vote`")
    return decided


def take_in(ballots: Ballots, path: Path) -> Imported:
    """Keep votes that were cast elsewhere on this poll's pairs: checked as a whole first.

    Args:
        path: CSV or JSONL with the columns first, second (both answers, word for word), choice (first, second, tie,
            skip) and voter.

    Raises:
        InputError: a row is on other answers, is no vote, or contradicts another vote of its voter on the same pair;
            with file and line.
    """
    lines = read_lines(path)
    if absent := [name for name in ("first", "second", "choice", "voter") if name not in lines[0][1]]:
        raise InputError(f"{path}: no column {', '.join(absent)}; needed are first, second, choice and voter")
    kept = {(vote.voter, vote.pair): ("the ledger", vote) for vote in read_votes(ballots.ledger, ballots.poll.id)}
    votes = []
    for where, fields in lines:
        vote = _vote(ballots, where, fields)
        before, known = kept.setdefault((vote.voter, vote.pair), (where, vote))
        if _meaning(known) != _meaning(vote):
            place = before.removeprefix(f"{path}, ")
            raise InputError(
                f"{where}: {vote.voter} votes otherwise on this pair in {place}; a voter has one vote on a pair: leave "
                "one out"
            )
        votes.append(vote)
    num_new = sum(keep_vote(ballots.ledger, vote) for vote in votes)
    return Imported(num_new, len(votes) - num_new)


def _meaning(vote: Vote) -> str:
    """Which answer a vote is for, whatever the sides: its hash, tie or skip."""
    return {"first": vote.first, "second": vote.second}.get(vote.choice, vote.choice)


def _vote(ballots: Ballots, where: str, fields: Mapping[str, Any]) -> Vote:
    try:
        first, second, given = (text_of(fields[name], name) for name in ("first", "second", "choice"))
        voter = name_of(fields["voter"])
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    choice = next((one for one in CHOICES if one == given), None)
    if choice is None:
        raise InputError(f"{where}: choice is {given[:40]!r}; one of {', '.join(CHOICES)} is needed")
    places = [place for place, pair in enumerate(ballots.poll.pairs) if {pair.ours, pair.theirs} == {first, second}]
    if len(places) != 1:
        what = "the answers to several prompts" if places else "no pair of this poll's answers"
        raise InputError(f"{where}: first and second are {what}; votes count only on the answers that were shown")
    pair = ballots.poll.pairs[places[0]]
    asked = (pair.id, voter, prompt_hash(pair.prompt), text_hash(first), text_hash(second))
    return Vote(ballots.poll.id, *asked, choice, places[0], pair.key, pair.weight)


def _rows_or_reasons(ledger: Ledger) -> list[dict[str, Any] | str]:
    votes = Votes.read(ledger)
    if not votes.all:
        raise UsageError("there are no votes yet; collect some with `alignkit vote RUN --vs MODEL`")
    return list(_rows(votes, ledger))


def _rows(votes: Votes, ledger: Ledger) -> Iterator[dict[str, Any] | str]:
    """Each pair's row, or why it has none."""
    seen: set[str] = set()
    for poll_id in dict.fromkeys(vote.poll for vote in votes.all):
        content = find_poll(ledger, poll_id)
        if content is None:
            raise damaged(ledger, f"it has votes of the poll {poll_id}, but not what that poll asked")
        for pair in as_poll(poll_id, content).pairs:
            cast = votes.on(pair.id)
            if not cast or pair.id in seen:
                continue
            seen.add(pair.id)
            values = [value for vote in cast if (value := vote.for_answer(text_hash(pair.ours))) is not None]
            mean = sum(values) / len(values) if values else None
            if mean is None or mean == 0.5:
                yield "skipped" if mean is None else "even"
                continue
            chosen, rejected = (pair.ours, pair.theirs) if mean > 0.5 else (pair.theirs, pair.ours)
            answers = {
                name: [{"role": "assistant", "content": text}]
                for name, text in (("chosen", chosen), ("rejected", rejected))
            }
            yield {"id": f"vote-{pair.id}", "prompt": list(pair.prompt), **answers}
