"""What `judge --require` asks of a verdict, and why a verdict does not meet it."""

from __future__ import annotations

from collections.abc import Iterator

from alignkit.judging import guards
from alignkit.judging.verdict import Verdict
from alignkit.judging.verdict_text import interval


def unmet(verdict: Verdict, require: str) -> str:
    """Why a verdict does not meet it, with the figures, in one line; empty where it does.

    Args:
        require: better, not-worse or better-and-guards.
    """
    reasons = [_not_worse(verdict)] if require == "not-worse" else [_better(verdict)]
    if require != "better":
        reasons += _guards(verdict)
    return "; ".join(filter(None, reasons))


def _not_worse(verdict: Verdict) -> str:
    rate, floor = verdict.win_rate, 50 - verdict.margin
    if not rate.has_interval:
        return f"there is no interval ({rate.method.removeprefix('none: ')})"
    if verdict.answer == "worse":
        return f"the answer is worse: {interval(rate)}"
    if rate.low < floor:
        return f"the {interval(rate)} goes down to {rate.low:.2f}, below 50 - {verdict.margin:g} = {floor:g}"
    return ""


def _better(verdict: Verdict) -> str:
    if verdict.answer == "better":
        return ""
    rate = verdict.win_rate
    shown = "" if rate.rate is None else f": win rate {rate.rate:.1f} %, {interval(rate)}"
    return f"the answer is {verdict.answer}{shown}"


def _guards(verdict: Verdict) -> Iterator[str]:
    for guard in verdict.guards:
        if guard.answer != "passes":
            yield f"guard {guard.name}, {guard.by}: {guards.briefly(guard)}"
