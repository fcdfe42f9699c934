"""Votes as preference rows: what people decided, to train on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.errors import InputError, UsageError
from alignkit.scoring.ledger import Ledger
from alignkit.scoring.votes import Votes, find_poll, text_hash
from alignkit.storage import open_private
from alignkit.voting.poll import as_poll


@dataclass(frozen=True)
class Exported:
    """How many pairs were written, and how many left out since the votes on them are even, or all skips."""

    num_rows: int
    num_even: int
    num_skipped: int


def export(ledger: Ledger, path: Path) -> Exported:
    """Write a row for each pair that more voters decided one way than the other: prompt, chosen, rejected.

    Raises:
        UsageError: there are no votes, or the file cannot be written; one that is there is not overwritten.
    """
    votes = Votes.read(ledger)
    if not votes.all:
        raise UsageError("there are no votes yet; collect some with `alignkit vote RUN --vs MODEL`")
    rows = list(_rows(votes, ledger))
    decided = [row for row in rows if isinstance(row, dict)]
    try:
        with open(path, "x", encoding="utf-8", opener=open_private) as file:
            file.writelines(json.dumps(row) + "\n" for row in decided)
    except OSError as error:
        raise UsageError(f"--export {path}: cannot be written ({error.strerror}); name another file") from error
    return Exported(len(decided), rows.count("even"), rows.count("skipped"))


def _rows(votes: Votes, ledger: Ledger) -> Iterator[dict[str, Any] | str]:
    """Each pair's row, or why it has none."""
    seen: set[str] = set()
    for poll_id in dict.fromkeys(vote.poll for vote in votes.all):
        content = find_poll(ledger, poll_id)
        if content is None:
            raise InputError(f"{ledger.path}: votes of the poll {poll_id}, which is not in it")
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
