"""A verdict in words: headline, rule, facts, table, all lines, and one flat JSON object."""

from __future__ import annotations

import json
import math
from typing import Any

from alignkit.judging import guards as guards_module
from alignkit.judging import health
from alignkit.judging import people as people_module
from alignkit.judging.bleu import Bleu
from alignkit.judging.length import LengthFacts
from alignkit.judging.metrics import table_rows
from alignkit.judging.planner import MOST
from alignkit.judging.verdict import AT_EQUAL_LENGTH, Here, JudgeName, JudgeNoise, Verdict
from alignkit.statistics.intervals import MIN_PROMPTS
from alignkit.statistics.win_rate import WinRate

MANY_MISSING = 0.05  # of the prompts: what they could change is then said


def headline(verdict: Verdict) -> str:
    """The verdict in one sentence."""
    win_rate = verdict.win_rate
    text = f"{answer_of(verdict)}: {verdict.run} "
    if win_rate.rate is None:
        return text + f"against {verdict.vs} has no prompt that both have a score for ({win_rate.num_missing} missing)"
    text += f"wins {win_rate.rate:.1f} % against {verdict.vs}, {interval(win_rate)}, "
    text += _count(win_rate.num_prompts, "prompt") + needed(verdict)
    text += f"\n{here_alone(verdict.here)}" if verdict.here else ""
    return text + (f"\n{guards_module.headline(verdict.guards)}" if verdict.guards else "")


def answer_of(verdict: Verdict) -> str:
    """The answer, what it speaks of alone, and whether the rate at equal length does not agree with it."""
    only = f" on {verdict.only}" if verdict.only and verdict.answer != "not enough evidence" else ""
    doubt = ", but not at equal length, as a model reads it" if verdict.at_equal_length is False else ""
    return verdict.answer + only + doubt


def needed(verdict: Verdict) -> str:
    """How many prompts would settle it, as the end of a sentence; empty where nothing can be said of that."""
    rate = verdict.win_rate
    if verdict.num_prompts_needed is not None:
        prompts, spread = f"about {verdict.num_prompts_needed:,} prompts, these included,", ""
        if rate.num_clusters:
            more = math.ceil(verdict.num_prompts_needed / rate.num_prompts * rate.num_clusters)
            spread = f" in {more:,} clusters of prompts (now {rate.num_clusters:,}),"
        return f"; {prompts}{spread} would settle it in 80 of 100 cases"
    if verdict.answer == "not enough evidence" and rate.has_interval and rate.num_prompts >= MIN_PROMPTS:
        more_of = ", in more clusters" if rate.num_clusters else ""
        return f"; to settle it takes more than {MOST:,} prompts{more_of}"
    return ""


def here_alone(here: Here) -> str:
    """What is said of these sources, in one line."""
    rate = f"{here.win_rate.rate:.1f} %, {interval(here.win_rate)}"
    return f"on these sources alone, whatever others would say: {here.answer}, {rate}"


def rule(verdict: Verdict) -> str:
    """The rule with this verdict's numbers, printed under it."""
    level, margin = f"{100 * verdict.win_rate.level:.4g} %", f"{verdict.margin:g}"
    look = verdict.look or 1
    later = f"; the {_ordinal(look)} look at this pair: all looks together are wrong in at most 5 %" if look > 1 else ""
    return (
        f"rule: better or worse if the {level} interval of the win rate (ties half, missing scores left out and "
        f"counted) excludes 50; else no difference that matters if it lies within 50 +- {margin}; else not enough "
        f"evidence{later}"
    )


def facts(verdict: Verdict) -> list[tuple[str, str]]:
    """What the verdict rests on: (name, text)."""
    win_rate = verdict.win_rate
    return [
        *guards_module.facts(verdict.guards),
        ("outcomes", tally(win_rate)),
        *([("missing", said)] if (said := if_missing(win_rate)) else []),
        ("interval", f"{win_rate.method}; resampled: {verdict.units}"),
        *(
            [("these sources alone", f"{here.win_rate.method}; resampled: {here.units}")]
            if (here := verdict.here)
            else []
        ),
        *([("rounds", verdict.rounds)] if verdict.rounds else []),
        *(_length_facts(verdict.length) if verdict.length else []),
        *([("judge's own noise", noise_of(verdict.noise))] if verdict.noise else []),
        *(people_module.facts(verdict.people) if verdict.people else []),
        ("judge", judge_said(verdict.judge)),
        ("prompts", f"{verdict.prompts}; seed {verdict.seed}"),
        ("look", "not counted" if verdict.look is None else f"number {verdict.look} at this pair"),
        ("speaks of", "these weights alone; how much another training seed would change is not in the interval"),
        *([("BLEU", bleu.signature)] if isinstance(bleu := verdict.ours.get("bleu"), Bleu) else []),
        ("created", verdict.created.isoformat()),
    ]


def judge_said(judge: JudgeName) -> str:
    """Which judge it was, and whether anyone can check what it says."""
    if judge.said:
        return judge.said
    kind = "not verifiable: a learned or remote score"
    if judge.name == "votes":
        kind = "what people voted"
    elif judge.verifiable:
        kind = "verifiable: a rule that anyone can check"
    return f"{judge.name} {judge.version} ({kind})"


def tally(rate: WinRate) -> str:
    """Wins, ties and losses, and how many prompts were left out."""
    parts = (_count(rate.num_wins, "win"), _count(rate.num_ties, "tie"), _count(rate.num_losses, "loss", "losses"))
    missing = f"; {_count(rate.num_missing, 'prompt')} left out for a missing score" if rate.num_missing else ""
    return ", ".join(parts) + missing


def if_missing(rate: WinRate) -> str:
    """What missing prompts could change, in one line; empty where few are missing."""
    num_all, bounds = rate.num_prompts + rate.num_missing, missing_bounds(rate)
    if bounds is None or rate.num_missing <= MANY_MISSING * num_all:
        return ""
    return (
        f"{rate.num_missing:,} of {_count(num_all, 'prompt')} ({100 * rate.num_missing / num_all:.0f} %); the win rate "
        f"is {bounds[0]:.1f} % if all of them were losses, {bounds[1]:.1f} % if all were wins"
    )


def missing_bounds(rate: WinRate) -> tuple[float, float] | None:
    """The rate in percent if all missing prompts were losses, and if all were wins; None without a rate."""
    if rate.rate is None:
        return None
    num_all = rate.num_prompts + rate.num_missing
    lost = rate.rate * rate.num_prompts / num_all
    return lost, lost + 100 * rate.num_missing / num_all


def table(verdict: Verdict) -> list[tuple[str, str, str]]:
    """Both models' numbers side by side: (name, ours, theirs), without a header; rows that neither has are left out."""
    return table_rows(verdict.ours, verdict.theirs)


def lines(verdict: Verdict) -> list[str]:
    """The whole verdict as plain text, a line each: headline, caveats, rule, facts, table, changes in the texts."""
    rows = [("", verdict.run, verdict.vs), *table(verdict)]
    widths = [max(len(row[n]) for row in rows) for n in range(3)]
    shown = [f"{name:<{widths[0]}}  {ours:>{widths[1]}}  {theirs:>{widths[2]}}" for name, ours, theirs in rows]
    return [
        headline(verdict),
        *(f"note: {caveat}" for caveat in verdict.caveats),
        rule(verdict),
        *(f"{name}: {text}" for name, text in facts(verdict)),
        *(["", *shown] if len(rows) > 1 else []),
        *(
            ["", "text health, ours against theirs:", *changed]
            if (changed := health.changed_lines(verdict.health))
            else []
        ),
    ]


def as_json(verdict: Verdict) -> str:
    """One flat object: rates in percent, null where there is none."""
    rate = verdict.win_rate
    content: dict[str, Any] = json.loads(verdict.model_dump_json(exclude={"win_rate"}))
    numbers: dict[str, Any] = {
        "answer": content.pop("answer"),
        "win_rate": rate.rate,
        "low": rate.low if rate.has_interval else None,
        "high": rate.high if rate.has_interval else None,
        "level": rate.level,
        "standard_error": rate.standard_error,
        "num_prompts": rate.num_prompts,
        "num_wins": rate.num_wins,
        "num_ties": rate.num_ties,
        "num_losses": rate.num_losses,
        "num_missing": rate.num_missing,
        "if_missing_lost": None if (bounds := missing_bounds(rate)) is None else bounds[0],
        "if_missing_won": None if bounds is None else bounds[1],
        "num_clusters": rate.num_clusters,
        "interval": rate.method,
    }
    for name in AT_EQUAL_LENGTH:
        here = verdict.length if verdict.length and verdict.length.estimator == name else None
        numbers |= {name: here and here.rate, f"{name}_low": here and here.low, f"{name}_high": here and here.high}
    numbers["at_equal_length"] = verdict.at_equal_length
    numbers["guards_pass"] = verdict.guards_pass
    return json.dumps(numbers | content | {"rule": rule(verdict)}, ensure_ascii=False)


def interval(win_rate: WinRate) -> str:
    """ "95 % interval 53.3 to 59.2", or why there is none."""
    if not win_rate.has_interval:
        return "no interval"
    return f"{100 * win_rate.level:.4g} % interval {win_rate.low:.1f} to {win_rate.high:.1f}"


def _length_facts(length: LengthFacts) -> list[tuple[str, str]]:
    near = length.near_equal
    at_equal = (
        f"no number: {length.reason}" if length.rate is None else rate_shown(length.rate, length.low, length.high)
    )
    buckets = "; ".join(
        f"{b.name} {rate_shown(b.rate, b.low, b.high)} ({b.num_prompts})" for b in length.buckets if b.num_prompts
    )
    rows = [
        (f"{AT_EQUAL_LENGTH[length.estimator]} win rate, a model's reading", at_equal),
        ("pairs within 10 % of equal length", f"{rate_shown(near.rate, near.low, near.high)} ({near.num_prompts})"),
        ("win rate by length against theirs", buckets),
    ]
    if length.longer_wins is not None:
        rows.append(("wins by the longer answer", f"{100 * length.longer_wins:.1f} % of {length.num_decided}"))
    if length.pearson is not None and length.spearman is not None:
        rows.append(
            ("score and length within prompts", f"Pearson {length.pearson:.2f}, Spearman {length.spearman:.2f}")
        )
    return rows


def rate_shown(rate: float | None, low: float | None, high: float | None) -> str:
    """A rate in percent with its interval, where it has one."""
    if rate is None:
        return "none"
    return f"{rate:.1f} %" + ("" if low is None or high is None else f" ({low:.1f} to {high:.1f})")


def noise_of(noise: JudgeNoise) -> str:
    """How much the judge alone changes, in one line."""
    return (
        f"{100 * noise.changed:.1f} % of the outcomes change when the same answers are scored again "
        f"({_count(noise.num_repeats, 'time')}); win rates {noise.lowest:.1f} to {noise.highest:.1f} %"
    )


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _ordinal(n: int) -> str:
    return f"{n}{'th' if 10 <= n % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"
