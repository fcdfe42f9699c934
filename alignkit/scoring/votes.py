"""What people voted: two tables in the ledger's file, beside the scores.

    polls(poll, content, created, checksum)      the pairs asked about, with their texts, and the order drawn for them
    votes(poll, pair, voter, ...)                one row per voter and pair, committed before it is confirmed

A vote names the pair (prompt and both answers, as a hash) and both answers' hashes in the order in which they were
shown, so it is never taken for one on other answers. A skip is kept too: the pair was asked about.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from alignkit.errors import InputError
from alignkit.scoring.judge import Missing, Scored
from alignkit.scoring.ledger import Ledger, canonical, open_ledger
from alignkit.scoring.ledger_file import VARIABLE, checksum, now

Choice = Literal["first", "second", "tie", "skip"]
"""Of the two answers as they were shown."""
CHOICES: tuple[Choice, ...] = get_args(Choice)
_logger = logging.getLogger(__name__)
_TABLES = """
CREATE TABLE IF NOT EXISTS polls (poll TEXT PRIMARY KEY, content TEXT NOT NULL, created TEXT NOT NULL,
  checksum TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS votes (poll TEXT NOT NULL, pair TEXT NOT NULL, voter TEXT NOT NULL,
  prompt TEXT NOT NULL, first TEXT NOT NULL, second TEXT NOT NULL, choice TEXT NOT NULL, place INTEGER NOT NULL,
  key REAL NOT NULL, weight REAL NOT NULL, created TEXT NOT NULL, checksum TEXT, UNIQUE (poll, pair, voter))
"""
_COLUMNS = "poll, pair, voter, prompt, first, second, choice, place, key, weight, created"


@dataclass(frozen=True)
class Vote:
    """One person's vote on one pair.

    `first` and `second` are hashes of the answers as they were shown; `place` is the pair's in the poll's order, from
    0, `key` and `weight` what that order was drawn by: the chance of having been asked follows from them.
    """

    poll: str
    pair: str
    voter: str
    prompt: str
    first: str
    second: str
    choice: Choice
    place: int
    key: float
    weight: float
    created: str = ""

    def for_answer(self, text_hash: str) -> float | None:
        """How much of a win it is for one of the two answers: 1, 0.5 or 0; None where it was skipped."""
        if self.choice == "skip":
            return None
        if self.choice == "tie":
            return 0.5
        return float((self.first if self.choice == "first" else self.second) == text_hash)


def text_hash(text: str) -> str:
    """A hash of one answer."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def prompt_hash(prompt: Sequence[Mapping[str, Any]]) -> str:
    """A hash of a conversation before its answer."""
    return hashlib.sha256(canonical([dict(message) for message in prompt]).encode("ascii")).hexdigest()[:24]


def pair_hash(prompt: Sequence[Mapping[str, Any]], one: str, other: str) -> str:
    """A hash of a prompt and two answers, whichever comes first."""
    return text_hash(" ".join([prompt_hash(prompt), *sorted([text_hash(one), text_hash(other)])]))


class Votes:
    """The votes in a ledger, as they were when it was read."""

    def __init__(self, votes: Iterable[Vote]) -> None:
        self.all = tuple(votes)
        self._by_pair: dict[str, list[Vote]] = {}
        for vote in self.all:
            self._by_pair.setdefault(vote.pair, []).append(vote)
        self._prompts = {vote.prompt for vote in self.all}

    @classmethod
    def read(cls, ledger: Ledger | None = None) -> Votes:
        """Read all votes; a row that is not what was written is left out with a warning."""
        return cls(read_votes(ledger or open_ledger()))

    @property
    def fingerprint(self) -> str:
        """Of all votes: a further one makes another."""
        rows = sorted((v.poll, v.pair, v.voter, v.choice, v.first) for v in self.all)
        return text_hash(canonical(rows))

    def on(self, pair: str) -> list[Vote]:
        """The votes on a pair."""
        return self._by_pair.get(pair, [])

    def score(self, prompt: Sequence[Mapping[str, Any]], ours: str, theirs: str) -> Scored | Missing:
        """The mean vote for `ours` against `theirs`, 1 a win and 0.5 a tie; equal answers tie unasked."""
        if ours == theirs:
            return Scored(0.5)
        votes = self.on(pair_hash(prompt, ours, theirs))
        values = [value for vote in votes if (value := vote.for_answer(text_hash(ours))) is not None]
        if values:
            return Scored(sum(values) / len(values))
        if votes:
            return Missing("everybody who was asked skipped this pair")
        if prompt_hash(prompt) in self._prompts:
            return Missing("the votes on this prompt are on other answers than those judged")
        return Missing("nobody voted on this pair: alignkit vote asks")


def read_votes(ledger: Ledger, poll: str | None = None) -> list[Vote]:
    """Every vote, or those of one poll, in the order in which they came."""
    if not ledger.exists:
        return []
    where, given = ("", ()) if poll is None else (" WHERE poll = ?", (poll,))
    with ledger.connection() as db:
        if not _has_tables(ledger, db):
            return []
        rows = db.execute(f"SELECT {_COLUMNS}, checksum FROM votes{where} ORDER BY rowid", given).fetchall()
    whole = [row[:-1] for row in rows if row[-1] == checksum(row[:-1])]
    if len(whole) < len(rows):
        _logger.warning("%s: %d votes are not what was written; they are left out", ledger.path, len(rows) - len(whole))
    return [Vote(*row) for row in whole]


def keep_vote(ledger: Ledger, vote: Vote) -> bool:
    """Commit a vote; False where this voter has voted on the pair before: that one stays.

    Raises:
        RunStopped: the disk is full; nothing that was confirmed is lost.
    """
    v = vote
    row = (
        v.poll,
        v.pair,
        v.voter,
        v.prompt,
        v.first,
        v.second,
        v.choice,
        v.place,
        float(v.key),
        float(v.weight),
        v.created or now(),
    )
    with ledger.transaction() as db:
        marks = ", ".join("?" * (len(row) + 1))
        return db.execute(f"INSERT OR IGNORE INTO votes VALUES ({marks})", (*row, checksum(row))).rowcount == 1


def take_back(ledger: Ledger, poll: str, voter: str) -> str | None:
    """Remove a voter's last vote and return its pair; None where there is none."""
    with ledger.transaction() as db:
        found = db.execute(
            "SELECT rowid, pair FROM votes WHERE poll = ? AND voter = ? ORDER BY rowid DESC LIMIT 1", (poll, voter)
        ).fetchone()
        if found is None:
            return None
        db.execute("DELETE FROM votes WHERE rowid = ?", (found[0],))
        return str(found[1])


def keep_poll(ledger: Ledger, poll: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what a poll asks, unless it is known, and return it as it is kept: of two processes the first draws."""
    row = (poll, json.dumps(content), now())
    with ledger.transaction() as db:
        _has_tables(ledger, db)
        for statement in _TABLES.split(";"):
            db.execute(statement)
        db.execute("INSERT OR IGNORE INTO polls VALUES (?, ?, ?, ?)", (*row, checksum(row)))
    kept = find_poll(ledger, poll)
    assert kept is not None
    return kept


def find_poll(ledger: Ledger, poll: str) -> dict[str, Any] | None:
    """What a poll asks; None where nothing is known of it.

    Raises:
        InputError: it is not what was written.
    """
    if not ledger.exists:
        return None
    with ledger.connection() as db:
        if not _has_tables(ledger, db):
            return None
        row = db.execute("SELECT poll, content, created, checksum FROM polls WHERE poll = ?", (poll,)).fetchone()
    if row is None:
        return None
    if row[3] != checksum(row[:3]):
        raise damaged(ledger, f"the poll {poll} is not what was written")
    content: dict[str, Any] = json.loads(row[1])
    return content


def _has_tables(ledger: Ledger, db: sqlite3.Connection) -> bool:
    """Whether somebody began a poll; both tables are made at once.

    Raises:
        InputError: one of them is gone.
    """
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE name IN ('polls', 'votes')")}
    if len(there) == 1:
        raise damaged(ledger, f"its table {({'polls', 'votes'} - there).pop()} is gone")
    return bool(there)


def damaged(ledger: Ledger, what: str) -> InputError:
    """What to say of a ledger that lost what was written into it."""
    return InputError(
        f"{ledger.path}: this ledger is damaged: {what}; put back a copy from before, or name another file by "
        f"{VARIABLE}"
    )
