"""A verdict in words: headline, rule, facts, numbers side by side, and as one flat JSON object."""

from __future__ import annotations

import json
from typing import Any

from alignkit.judging import health
from alignkit.judging.length import LengthFacts
from alignkit.judging.verdict import Side, Verdict
from alignkit.statistics.win_rate import WinRate

_NONE = "-"
_AT_EQUAL_LENGTH = {"length_adjusted_win_rate": "length-adjusted", "length_controlled_win_rate": "length-controlled"}


def headline(verdict: Verdict) -> str:
    """The verdict in one sentence."""
    win_rate = verdict.win_rate
    answer = verdict.answer + (
        ", but not at equal length, as a model reads it" if verdict.at_equal_length is False else ""
    )
    text = f"{answer}: {verdict.run} "
    if win_rate.rate is None:
        return text + f"against {verdict.vs} has no prompt that both have a score for ({win_rate.num_missing} missing)"
    text += f"wins {win_rate.rate:.1f} % against {verdict.vs}, {interval(win_rate)}, "
    text += _count(win_rate.num_prompts, "prompt")
    if verdict.num_prompts_needed is not None:
        needed = f"about {verdict.num_prompts_needed:,} prompts"
        text += f"; {needed} would settle it in 80 of 100 cases if the rate stays as it is"
    return text


def rule(verdict: Verdict) -> str:
    """The rule with this verdict's numbers, printed under it."""
    level, margin = f"{100 * verdict.win_rate.level:.4g} %", f"{verdict.margin:g}"
    look = verdict.look or 1
    split = f"; the {_ordinal(look)} look at this pair: 5 % is split into {look}" if look > 1 else ""
    return (
        f"rule: better or worse if the {level} interval of the win rate (ties half, missing scores left out and "
        f"counted) excludes 50; else no difference that matters if it lies within 50 +- {margin}; else not enough "
        f"evidence{split}"
    )


def facts(verdict: Verdict) -> list[tuple[str, str]]:
    """What the verdict rests on: (name, text)."""
    win_rate, judge = verdict.win_rate, verdict.judge
    kind = (
        "verifiable: a rule that anyone can check" if judge.verifiable else "not verifiable: a learned or remote score"
    )
    tally = ", ".join(
        (
            _count(win_rate.num_wins, "win"),
            _count(win_rate.num_ties, "tie"),
            _count(win_rate.num_losses, "loss", "losses"),
        )
    )
    missing = f"; {_count(win_rate.num_missing, 'prompt')} left out for a missing score" if win_rate.num_missing else ""
    return [
        ("outcomes", tally + missing),
        ("interval", f"{win_rate.method}; resampled: {verdict.units}"),
        *(_length_facts(verdict.length) if verdict.length else []),
        *([("judge's own noise", _noise(verdict))] if verdict.noise else []),
        ("judge", f"{judge.name} {judge.version} ({kind})"),
        ("prompts", f"{verdict.prompts}; seed {verdict.seed}"),
        ("look", "not counted" if verdict.look is None else f"number {verdict.look} at this pair"),
        ("speaks of", "these weights alone; how much another training seed would change is not in the interval"),
        *([("BLEU", verdict.ours.bleu.signature)] if verdict.ours.bleu else []),
        ("created", verdict.created.isoformat()),
    ]


def table(verdict: Verdict) -> list[tuple[str, str, str]]:
    """Both models' numbers side by side: (name, ours, theirs), without a header; rows that neither has are left out."""
    pairs = zip(_numbers(verdict.ours), _numbers(verdict.theirs), strict=True)
    return [(name, ours, theirs) for (name, ours), (_, theirs) in pairs if {ours, theirs} != {_NONE}]


def lines(verdict: Verdict) -> list[str]:
    """The whole verdict as plain text, a line each: headline, caveats, rule, facts, table."""
    rows = [("", verdict.run, verdict.vs), *table(verdict)]
    widths = [max(len(row[n]) for row in rows) for n in range(3)]
    shown = [f"{name:<{widths[0]}}  {ours:>{widths[1]}}  {theirs:>{widths[2]}}" for name, ours, theirs in rows]
    return [
        headline(verdict),
        *(f"note: {caveat}" for caveat in verdict.caveats),
        rule(verdict),
        *(f"{name}: {text}" for name, text in facts(verdict)),
        *(["", *shown] if len(rows) > 1 else []),
        *(["", "text health, ours against theirs:", *health.lines(verdict.health)] if verdict.health else []),
    ]


def as_json(verdict: Verdict) -> str:
    """One flat object: rates in percent, null where there is none."""
    rate = verdict.win_rate
    content: dict[str, Any] = json.loads(verdict.model_dump_json(exclude={"win_rate"}))
    numbers: dict[str, Any] = {
        "answer": content.pop("answer"),
        "win_rate": rate.rate,
        "low": rate.low,
        "high": rate.high,
        "level": rate.level,
        "standard_error": rate.standard_error,
        "num_prompts": rate.num_prompts,
        "num_wins": rate.num_wins,
        "num_ties": rate.num_ties,
        "num_losses": rate.num_losses,
        "num_missing": rate.num_missing,
        "num_clusters": rate.num_clusters,
        "interval": rate.method,
    }
    for name in _AT_EQUAL_LENGTH:
        here = verdict.length if verdict.length and verdict.length.estimator == name else None
        numbers |= {name: here and here.rate, f"{name}_low": here and here.low, f"{name}_high": here and here.high}
    numbers["at_equal_length"] = verdict.at_equal_length
    return json.dumps(numbers | content | {"rule": rule(verdict)}, ensure_ascii=False)


def interval(win_rate: WinRate) -> str:
    """ "95 % interval 53.3 to 59.2", or why there is none."""
    if win_rate.num_prompts < 2:
        return "no interval"
    return f"{100 * win_rate.level:.4g} % interval {win_rate.low:.1f} to {win_rate.high:.1f}"


def _length_facts(length: LengthFacts) -> list[tuple[str, str]]:
    near = length.near_equal
    at_equal = f"no number: {length.reason}" if length.rate is None else _rate(length.rate, length.low, length.high)
    buckets = "; ".join(
        f"{b.name} {_rate(b.rate, b.low, b.high)} ({b.num_prompts})" for b in length.buckets if b.num_prompts
    )
    rows = [
        (f"{_AT_EQUAL_LENGTH[length.estimator]} win rate, a model's reading", at_equal),
        ("pairs within 10 % of equal length", f"{_rate(near.rate, near.low, near.high)} ({near.num_prompts})"),
        ("win rate by length against theirs", buckets),
    ]
    if length.longer_wins is not None:
        rows.append(("wins by the longer answer", f"{100 * length.longer_wins:.1f} % of {length.num_decided}"))
    if length.pearson is not None and length.spearman is not None:
        rows.append(
            ("score and length within prompts", f"Pearson {length.pearson:.2f}, Spearman {length.spearman:.2f}")
        )
    return rows


def _rate(rate: float | None, low: float | None, high: float | None) -> str:
    if rate is None:
        return "none"
    return f"{rate:.1f} %" + ("" if low is None or high is None else f" ({low:.1f} to {high:.1f})")


def _noise(verdict: Verdict) -> str:
    noise = verdict.noise
    assert noise is not None
    return (
        f"{100 * noise.changed:.1f} % of the outcomes change when the same answers are scored again "
        f"({_count(noise.num_repeats, 'time')}); win rates {noise.lowest:.1f} to {noise.highest:.1f} %"
    )


def _numbers(side: Side) -> list[tuple[str, str]]:
    bleu = side.bleu
    return [
        ("BLEU-1", _number(bleu.bleu1 if bleu else None)),
        ("BLEU-2", _number(bleu.bleu2 if bleu else None)),
        ("BLEU-4", _number(bleu.bleu4 if bleu else None)),
        ("perplexity of the references", _number(side.perplexity)),
        ("mean length, tokens", _number(side.mean_length_tokens)),
        ("repeated 4-grams, %", _number(side.repetition, scale=100)),
        ("cut at the limit, %", _number(side.cut_share, scale=100)),
        ("mean thinking, tokens", _number(side.thinking_tokens)),
    ]


def _number(x: float | None, *, scale: float = 1.0) -> str:
    return _NONE if x is None else f"{scale * x:.1f}"


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _ordinal(n: int) -> str:
    return f"{n}{'th' if 10 <= n % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"
