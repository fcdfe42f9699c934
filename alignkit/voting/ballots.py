"""Which pair a voter sees next, which answer stands first, and what a vote becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alignkit.data.reading.split import derived_seed
from alignkit.errors import InputError
from alignkit.scoring.ledger import Ledger
from alignkit.scoring.votes import CHOICES, Vote, keep_vote, prompt_hash, read_votes, take_back, text_hash
from alignkit.voting.poll import Pair, Poll

MAX_NAME = 40  # characters of a voter's name


@dataclass(frozen=True)
class Ballots:
    """One poll and where its votes are kept. Safe to use from several threads and processes."""

    poll: Poll
    ledger: Ledger

    def next(self, voter: str) -> dict[str, Any]:
        """What the page shows: how far the voter is, and the next pair, blind; every voter goes by the same order."""
        voter = name_of(voter)
        votes = [vote for vote in read_votes(self.ledger, self.poll.id) if vote.voter == voter]
        done = {vote.pair for vote in votes}
        shown: dict[str, Any] = {"done": len(done), "total": len(self.poll.pairs), "voter": voter, "pair": None}
        for pair in self.poll.pairs:
            if pair.id not in done:
                first, second = self._sides(voter, pair)
                shown["pair"] = {"id": pair.id, "turns": pair.turns, "first": first, "second": second}
                break
        return shown

    def vote(self, voter: str, pair_id: str, choice: str) -> bool:
        """Keep a vote; False for a second one by the same voter on the same pair, which changes nothing.

        Raises:
            InputError: no such pair or choice, or no name.
            RunStopped: the disk is full.
        """
        voter = name_of(voter)
        found = next((place for place, pair in enumerate(self.poll.pairs) if pair.id == pair_id), None)
        if found is None:
            raise InputError("this pair is not in the poll: load the page again")
        if choice not in CHOICES:
            raise InputError(f"no such choice; one of {', '.join(CHOICES)}")
        pair = self.poll.pairs[found]
        first, second = self._sides(voter, pair)
        hashes = text_hash(first), text_hash(second)
        asked = (prompt_hash(pair.prompt), *hashes)
        return keep_vote(self.ledger, Vote(self.poll.id, pair.id, voter, *asked, choice, found, pair.key, pair.weight))

    def undo(self, voter: str) -> None:
        """Take the voter's last vote back."""
        take_back(self.ledger, self.poll.id, name_of(voter))

    def _sides(self, voter: str, pair: Pair) -> tuple[str, str]:
        """Both answers in the order this voter sees: drawn for each voter and pair, the same each time."""
        is_swapped = derived_seed("sides", 0, f"{self.poll.id} {voter} {pair.id}") % 2
        return (pair.theirs, pair.ours) if is_swapped else (pair.ours, pair.theirs)


def name_of(voter: object) -> str:
    """A voter's name without white space around it.

    Raises:
        InputError: it is no text, empty, too long, or holds what cannot be printed.
    """
    name = text_of(voter, "the voter's name").strip()
    if not name:
        raise InputError(f"the voter's name is empty; 1 to {MAX_NAME} characters are needed")
    if len(name.splitlines()) > 1:
        raise InputError("the voter's name has a line break in it; write it on one line")
    if odd := next((char for char in name if not char.isprintable()), None):
        raise InputError(f"the voter's name holds U+{ord(odd):04X}, which cannot be shown; leave it out")
    if len(name) > MAX_NAME:
        raise InputError(f"the voter's name has {len(name)} characters; 1 to {MAX_NAME} are possible")
    return name


def text_of(value: object, what: str) -> str:
    """A value that has to be a text.

    Raises:
        InputError: it is something else, of which the kind is said.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        kind = f"the number {value}"
    else:
        kind = {list: "a list", dict: "an object", bool: str(value is True).lower()}.get(type(value), "null")
    raise InputError(f"{what} is {kind}; a text is needed")
