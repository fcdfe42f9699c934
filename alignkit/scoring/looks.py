"""How often a pair of models was judged: each further look is a further chance of a false alarm.

A pair is two models' weights, whichever was judged against the other. A look is one set of prompts, answers, judge,
clustering and margin. Both stand in the ledger's file by their fingerprints. A look that could not have found anything
is free, and stands there as one: should it be counted after all (with another `--difference`), so are all other free
ones at the pair, for it may have been picked among them.
"""

from __future__ import annotations

import itertools
import logging
import sqlite3
from collections.abc import Sequence

from alignkit.errors import InputError
from alignkit.scoring.ledger import Ledger
from alignkit.scoring.ledger_file import LOOK, checksum, is_whole, now

_logger = logging.getLogger(__name__)
_FREE = "free "  # before the pair of a look that is not counted


def count_look(
    ledger: Ledger,
    models: tuple[str, str],
    look: str,
    *,
    known: Sequence[str] = (),
    known_free: Sequence[str] = (),
    is_free: bool = False,
) -> int | None:
    """Note a look at two models, unless it is known, and return its number among this pair's, from 1; None if free.

    Judging the same again gives the same numbers and is no further look; other prompts, another seed, other
    sampling or another judge is one, and each is a further chance of a false alarm. A row that is not what was
    written counts as a look at every pair: nobody can say at which it was.

    Args:
        models: fingerprints of their weights, in any order.
        look: fingerprint of prompts, generation and judge.
        known, known_free: looks at this pair that are on record elsewhere, oldest first; they are noted too.
        is_free: whether this look is not counted.
    """
    pair = pair_of(models)
    with ledger.transaction() as db:
        there, num_damaged = _looks(db)

        def of(whose: str) -> list[str]:
            return [name for owner, name in there.values() if owner == whose]

        def note(whose: str, names: Sequence[str]) -> None:
            for name in dict.fromkeys(names):
                if name not in of(whose):
                    number = next(n for n in itertools.count(len(there) + 1) if n not in there)
                    row = (number, whose, name, now())
                    db.execute("INSERT INTO looks VALUES (?, ?, ?, ?, ?)", (*row, checksum(row)))
                    there[number] = (whose, name)

        note(pair, known)
        note(_FREE + pair, known_free)
        free = of(_FREE + pair)
        counts_too = free if look in free and look not in of(pair) else []
        before = [*of(pair), *(name for name in counts_too if name != look and name not in of(pair))]
        number = (before.index(look) if look in before else len(before)) + 1 + num_damaged
        counts = look in of(pair) or not is_free
        if counts:
            note(pair, [*before, look])
        else:
            note(_FREE + pair, [look])
        if num_damaged:
            _logger.warning(
                "%s: %d rows of looks are not what was written; each counts as a look at these two models",
                ledger.path,
                num_damaged,
            )
        return number if counts else None


def num_looks(ledger: Ledger, models: tuple[str, str]) -> int:
    """How many looks at two models are on record; damaged rows count for everybody."""
    if not ledger.exists:
        return 0
    with ledger.connection() as db:
        there, num_damaged = _looks(db)
    return sum(whose == pair_of(models) for whose, _ in there.values()) + num_damaged


def check_looks(ledger: Ledger) -> None:
    """Check the record of looks before anything is judged.

    Raises:
        InputError: it is damaged: a look may be missing from it, and a verdict would be too sure.
    """
    if not ledger.exists:
        return
    with ledger.connection() as db:
        found = [row[0] for row in db.execute("PRAGMA integrity_check(looks)")]
    if found != ["ok"]:
        raise InputError(
            f"{ledger.path}: the record of looks is damaged ({str(found[0]).splitlines()[0]}); repair the file or "
            "move it away: the looks of runs stand in their verdicts too, scores are asked for again"
        )


def _looks(db: sqlite3.Connection) -> tuple[dict[int, tuple[str, str]], int]:
    """Every look, {number: (pair, look)}, by the table itself and not its index; and how many rows are damaged."""
    rows = db.execute(f"SELECT {', '.join(LOOK)}, checksum FROM looks NOT INDEXED ORDER BY number").fetchall()
    good = {row[0]: (row[1], row[2]) for row in rows if is_whole(row, LOOK)}
    lost = max(good, default=0) - len(rows)  # numbers are given one after another
    return dict.fromkeys((row[0] for row in rows), ("", "")) | good, len(rows) - len(good) + max(lost, 0)


def pair_of(models: tuple[str, str]) -> str:
    """One name for two models' weights, whichever comes first."""
    return " ".join(sorted(models))
