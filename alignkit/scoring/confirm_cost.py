"""Asking before money is spent: the user sees what a paid judge would take, and agrees by `--yes` or on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from alignkit import progress
from alignkit.display import duration, on_one_line
from alignkit.errors import UsageError
from alignkit.scoring.specs import NamedJudge


def confirm_cost(judges: Sequence[NamedJudge], num_items: int, *, yes: bool, unattended: bool = False) -> None:
    """Show what scoring that many items by each paid judge would take at most, and go on only if that is agreed to.

    Args:
        yes: agreed to beforehand.
        unattended: without a terminal to ask on, go on (a training run whose paid reward was named by its user).

    Raises:
        UsageError: it was not agreed to, or there is no terminal to ask on and no `--yes`.
    """
    paid = [named for named in judges if named.judge.paid]
    if not paid:
        return
    progress.undraw()
    for named in paid:
        cost = named.judge.cost(num_items)
        to = named.judge.destination()
        where = on_one_line(f" to {to}") if to else ""
        print(
            f"{on_one_line(named.label)}: at most {cost.num_requests:,} requests{where}, "
            f"about {duration(cost.seconds)} at its rate, {cost.price}; what the ledger knows is not sent again",
            file=sys.stderr,
        )
    names = ", ".join(repr(named.label) for named in paid)
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        if unattended:
            return
        raise UsageError(f"judge {names} costs money: up to {num_items:,} texts would be sent; agree with --yes")
    if progress.ask("send them? [y/N] ") not in ("y", "yes"):
        raise UsageError(f"judge {names} costs money, and that was not agreed to; nothing was sent")
