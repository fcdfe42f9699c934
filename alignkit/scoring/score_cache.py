"""Scoring through the ledger: what is known is read, the rest is asked once and kept before it is used.

Scores that cost money or time elsewhere are claimed first, so that processes that share a ledger ask for each once.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from alignkit.display import duration
from alignkit.errors import AlignkitError, RunStopped
from alignkit.scoring.claims import new_owner
from alignkit.scoring.judge import Item, Judge, Missing, Scored
from alignkit.scoring.ledger import Ledger, Source, open_ledger

_logger = logging.getLogger(__name__)
_SAID_EVERY_S = 30.0
_RENEWED_EVERY_S = 10.0  # a claim; it is stale after claims.STALE_S
_LOOKED_EVERY_S = 0.5  # whether another process has got a score


def cached_scores(
    judge: Judge, items: Sequence[Item], *, label: str, repeat: int = 0, ledger: Ledger | None = None
) -> list[Scored | Missing]:
    """Return one answer for each item, in order; equal items are asked once.

    Args:
        judge: asked for what the ledger does not know.
        label: what messages call the judge.
        repeat: draws of one score beyond the first have numbers 1, 2, ...: each is kept on its own.
        ledger: default: this process's.

    Raises:
        RunStopped: the judge broke its contract (wrong number of answers, a score that is not finite), or the ledger's
            disk fails. What the judge had answered before is kept.
        AlignkitError: as the judge raises.
    """
    ledger = ledger or open_ledger()
    source = Source.of(judge.name, judge.version, judge.parameters())
    keys = [source.key(judge.given(item), repeat=repeat) for item in items]
    answers: dict[str, Scored | Missing] = dict(ledger.find(list(dict.fromkeys(keys))))
    open_ones = {key: item for key, item in zip(keys, items, strict=True) if key not in answers}
    ask = functools.partial(_ask, judge, source=source, label=label, repeat=repeat, ledger=ledger)
    if open_ones and (judge.paid or judge.remote):
        _ask_with_others(ask, open_ones, answers, label=label, ledger=ledger)
    elif open_ones:
        ask(open_ones, answers)
    return [answers[key] for key in keys]


@contextmanager
def claiming(ledger: Ledger) -> Iterator[str]:
    """Yield a name to claim by, one for each call; its claims are renewed meanwhile and released at the end."""
    name, ended = new_owner(), threading.Event()

    def renew() -> None:
        while not ended.wait(_RENEWED_EVERY_S):
            try:
                ledger.renew(name)
            except AlignkitError as error:
                _logger.debug("claims were not renewed: %s", error)

    threading.Thread(target=renew, daemon=True, name="claims").start()
    try:
        yield name
    finally:
        ended.set()
        with suppress(AlignkitError):  # a ledger that cannot be written was reported; the claims go stale
            ledger.release(name)


def _ask_with_others(
    ask: Callable[[Mapping[str, Item], dict[str, Scored | Missing]], None],
    open_ones: Mapping[str, Item],
    answers: dict[str, Scored | Missing],
    *,
    label: str,
    ledger: Ledger,
) -> None:
    """Ask for what nobody else is asking for, and wait for the rest: processes that want the same buy it once.

    What another one could not get, or did not live to get, is asked for here.
    """
    said = -math.inf
    with claiming(ledger) as owner:
        while left := [key for key in open_ones if key not in answers]:
            claimed = ledger.claim(left, owner)
            answers.update(claimed.scores)
            if claimed.mine:
                ask({key: open_ones[key] for key in claimed.mine}, answers)
                ledger.release(owner)  # whoever waits holds nothing
            elif claimed.others:
                if time.monotonic() - said > _SAID_EVERY_S:
                    said = time.monotonic()
                    _logger.info("%s: waiting for %d scores that another process asks for", label, len(claimed.others))
                time.sleep(_LOOKED_EVERY_S)


def _ask(
    judge: Judge,
    open_ones: Mapping[str, Item],
    answers: dict[str, Scored | Missing],
    *,
    source: Source,
    label: str,
    repeat: int,
    ledger: Ledger,
) -> None:
    """Ask for every open item and keep each part of the answers as it arrives."""
    keys = list(open_ones)
    if judge.paid:
        cost = judge.cost(len(keys))
        known = f"{len(answers):,} scores are in the ledger, " if answers else ""
        _logger.info("%s: %s%d to ask for, about %s", label, known, len(keys), duration(cost.seconds))
    began = said = time.monotonic()
    done = 0
    for part in judge.stream(list(open_ones.values())):
        done += len(part)
        if done > len(keys) or not all(0 <= number < len(keys) for number in part):
            break
        checked = {keys[number]: _checked(answer, label) for number, answer in part.items()}
        answers.update(checked)
        answers.update(ledger.keep(source, checked, repeat=repeat))
        if time.monotonic() - said > _SAID_EVERY_S:
            said = time.monotonic()
            left = (said - began) / done * (len(keys) - done)
            _logger.info("%s: %d of %d scored, about %s left", label, done, len(keys), duration(left))
    if done != len(keys) or not answers.keys() >= open_ones.keys():
        raise RunStopped(f"judge {label!r} answered {done} of {len(keys)} items")


def _checked(answer: object, label: str) -> Scored | Missing:
    if isinstance(answer, Missing) or (isinstance(answer, Scored) and math.isfinite(answer.value)):
        return answer
    raise RunStopped(f"judge {label!r} gave {answer!r}; a finite score or Missing(reason) is needed")
