"""A verdict in about six lines: the answer, the win rate, the caveat that matters most, lengths, what it rests on.

Guards, people's votes, rounds and the judge's noise have a line each where they were asked for. All the rest is
`verdict_text.lines`.
"""

from __future__ import annotations

from alignkit.judging import guards, people
from alignkit.judging.scores import says_missing
from alignkit.judging.verdict import AT_EQUAL_LENGTH, Verdict
from alignkit.judging.verdict_text import (
    answer_of,
    here_alone,
    if_missing,
    interval,
    judge_said,
    needed,
    noise_of,
    rate_shown,
    tally,
)

_ONLY_THESE = "it speaks of these weights alone, not of another training seed"


def summary(verdict: Verdict) -> list[str]:
    """The lines, without where the details are."""
    rate = verdict.win_rate
    first, *others = verdict.caveats or (_ONLY_THESE,)
    more = f" ({len(others)} more with --details)" if others else ""
    lines = [f"{answer_of(verdict)}: {verdict.run} against {verdict.vs}{needed(verdict)}"]
    if rate.rate is None:
        lines.append(f"win rate: none, {rate.num_missing} prompts without a score on both sides")
    else:
        reason = rate.method.removeprefix("none: ")
        known = interval(rate) if rate.has_interval else "no interval" + (f": {reason}" if reason not in first else "")
        lines.append(f"win rate: {rate.rate:.1f} %, {known}; {tally(rate)}")
    lines += [f"missing: {said}"] if (said := if_missing(rate)) else []
    lines += [here_alone(verdict.here)] if verdict.here else []
    lines.append(f"note: {first}{more}")
    lines += [f"note: {caveat}" for caveat in others if says_missing(caveat)]
    lines += [f"length: {_lengths(verdict)}"]
    lines += [f"guard {guard.name}, {guard.by}: {guards.briefly(guard)}" for guard in verdict.guards]
    lines += [f"people: {people.briefly(verdict.people)}"] if verdict.people else []
    lines += [f"rounds: {verdict.rounds}"] if verdict.rounds else []
    lines += [f"judge's own noise: {noise_of(verdict.noise)}"] if verdict.noise else []
    look = "" if verdict.look is None else f"; look {verdict.look} at this pair"
    over = "" if verdict.units == "prompts" else f"; resampled: {verdict.units}"
    lines.append(f"rests on: {judge_said(verdict.judge)}; {verdict.prompts}, seed {verdict.seed}{over}{look}")
    return lines


def _lengths(verdict: Verdict) -> str:
    ours, theirs = (side.get("mean_length_tokens") for side in (verdict.ours, verdict.theirs))
    parts = []
    if isinstance(ours, float) and isinstance(theirs, float):
        parts.append(f"ours {ours:.1f}, theirs {theirs:.1f} tokens")
    if (length := verdict.length) is not None:
        name = f"{AT_EQUAL_LENGTH[length.estimator]} win rate"
        parts.append(
            f"{name}: {length.reason}"
            if length.rate is None
            else f"{name} {rate_shown(length.rate, length.low, length.high)}"
        )
    return "; ".join(parts) or "unknown"
