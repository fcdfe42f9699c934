"""Draws the pictures of docs/judging/README.md: python docs/judging/draw.py"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import norm

from alignkit.judging.decision import level_of
from alignkit.judging.length_adjusted import length_adjusted
from alignkit.judging.planner import LEVEL
from alignkit.judging.rounds import SHARES, levels_of
from alignkit.statistics.prediction_powered import prediction_powered
from alignkit.statistics.resampling import CAUTION, Clusters
from alignkit.statistics.win_rate import win_rate

Row = tuple[str, float, float, float]  # what, the rate, its interval
PROMPTS = 874

CASES = (
    ("better", 55.8, 52.1, 59.6),
    ("worse", 43.9, 40.2, 47.5),
    ("no difference that matters", 50.6, 48.2, 52.7),
    ("not enough evidence", 53.0, 48.1, 57.9),
)
GUARDS = (("passes", 0.4, -2.6), ("does not pass", -1.0, -6.4), ("passes, although it lost", -2.2, -4.1))
GUARD_MARGIN = 5.0  # points
LOW, HIGH, MARGIN = 38.0, 62.0, 3.0
WIDTH, LEFT, RIGHT, ROW, TOP = 720, 220, 700, 44, 40


def verdicts() -> str:
    """Return the SVG: one interval a row, the line at 50 and the margin around it."""
    return _rates("Four intervals of a win rate and the verdict on each", CASES, LOW, HIGH)


def looks() -> str:
    """Return the SVG: the interval of one and the same rate at the first look and at later ones."""
    rows = []
    for look in (1, 2, 3, 5, 10):
        level = level_of(look)
        half = -float(norm.ppf(CAUTION * (1 - level) / 2)) * 50 / PROMPTS**0.5
        rows.append((f"look {look}: {100 * level:.5g} %", 55.0, 55 - half, 55 + half))
    return _rates(
        f"A rate of 55 on {PROMPTS} prompts: the more looks there were, the wider its interval", rows, LOW, HIGH
    )


def sources() -> str:
    """Return the SVG: 300 prompts, won in 56 of 100 cases, 10 points apart from source to source."""
    rows = []
    for num in (3, 5, 10, 15, 30):
        size = 300 // num
        spread_G = norm.ppf((np.arange(num) + 0.5) / num)
        wins_G = np.round((0.56 + 0.1 * spread_G / spread_G.std()) * size).astype(int)
        outcome_P = np.concatenate([np.arange(size) < wins for wins in wins_G]).astype(float)
        clusters = Clusters.of(np.repeat(np.arange(num), size).tolist())
        rate = win_rate(outcome_P, seed=0, level=LEVEL, clusters=clusters)
        assert rate.rate is not None
        name = f"{num} sources" + ("" if rate.has_interval else ": anything")
        rows.append((name, rate.rate, rate.low, rate.high))
    return _rates("300 prompts from few sources say little of other sources", rows, 35, 77)


def rounds() -> str:
    """Return the SVG: the interval after each round of one judging, at a rate of 55.5."""
    rows = []
    for number, (share, level) in enumerate(zip(SHARES, levels_of(LEVEL), strict=True), start=1):
        num = round(share * PROMPTS)
        half = float(norm.ppf((1 + level) / 2)) * 50 / num**0.5
        rows.append((f"round {number} ({num})", 55.5, 55.5 - half, 55.5 + half))
        if 55.5 - half > 50:
            rows[-1] = (f"{rows[-1][0]}: better", *rows[-1][1:])
            break
    return _rates("Judging in rounds: early ones have far wider intervals", rows, 35, 77)


def shared_cause() -> str:
    """Return the SVG: a judge that cares nothing for length, and what the length-adjusted rate makes of it."""
    rng = np.random.default_rng(3)
    first_P = rng.random(4000) < 0.5  # prompts at which ours is better, and writes more
    delta_P = rng.normal(np.where(first_P, -500, 100), 300)
    better_P = np.where(first_P, 0.6, -0.6)
    outcome_P = (rng.random(4000) < 1 / (1 + np.exp(-better_P))).astype(float)
    raw = win_rate(outcome_P, seed=0, level=0.95, num_resamples=2000)
    adjusted = length_adjusted(outcome_P, delta_P, Clusters.single(4000), seed=0, num_resamples=500)
    assert None not in (raw.rate, adjusted.rate, adjusted.low, adjusted.high)
    rows = [("win rate", raw.rate, raw.low, raw.high), ("length-adjusted", adjusted.rate, adjusted.low, adjusted.high)]
    title = "Both models are equal, the judge does not look at length: the truth is 50"
    return _rates(title, rows, LOW, HIGH, margin=0.0)  # type: ignore[arg-type]


def votes() -> str:
    """Return the SVG: a judge that favours ours, 100 votes, and both together; people would say 50."""
    rng = np.random.default_rng(13)
    people_N = (rng.random(1000) < 0.5).astype(float)
    is_wrong_N = rng.random(1000) < np.where(people_N == 1, 0.02, 0.2)
    judged_N = np.abs(people_N - is_wrong_N)
    asked_K = rng.permutation(1000)[:100]
    both = prediction_powered(people_N[asked_K], asked_K, judged_N, np.full(1000, 0.1))
    judge = win_rate(judged_N, seed=0, level=0.95, num_resamples=2000)
    assert judge.rate is not None
    rows = [
        ("the judge, 1,000 pairs", judge.rate, judge.low, judge.high),
        ("100 votes alone", 100 * both.alone_mean, 100 * both.alone_low, 100 * both.alone_high),
        ("people, by both", 100 * both.mean, 100 * both.low, 100 * both.high),
    ]
    return _rates("A judge that favours ours, people who find both equal", rows, 35, 77, margin=0.0)


def guards() -> str:
    """Return the SVG: the difference of ours less theirs and its lower bound, a guard a row, and the margin."""

    def x_at(points: float) -> float:
        return LEFT + (points + 12) / 18 * (RIGHT - LEFT)

    bottom, edge = TOP + ROW * len(GUARDS), x_at(-GUARD_MARGIN)
    parts = [
        *_opened(bottom + 40, "Three guards: where the bound lies beyond the margin, the guard does not pass"),
        f'<rect x="{LEFT}" y="{TOP - 10}" width="{edge - LEFT:.1f}" height="{bottom - TOP + 10}" fill="#f7e8e8"/>',
        f'<line x1="{edge:.1f}" y1="{TOP - 10}" x2="{edge:.1f}" y2="{bottom}" stroke="#aa3333"/>',
        f'<text x="{edge:.1f}" y="{TOP - 18}" text-anchor="middle" fill="#aa3333">margin: 5 points lost</text>',
        f'<line x1="{x_at(0):.1f}" y1="{TOP - 10}" x2="{x_at(0):.1f}" y2="{bottom}" stroke="#333333"/>',
        f'<text x="{x_at(0):.1f}" y="{TOP - 18}" text-anchor="middle" fill="#333333">equal</text>',
    ]
    for number, (answer, difference, low) in enumerate(GUARDS):
        parts += _row(number, answer, x_at(difference), x_at(low), x_at(difference))
    for tick in range(-10, 6, 5):
        parts.append(_tick(x_at(tick), bottom, f"{tick:+d}" if tick else "0"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _rates(title: str, rows: Sequence[Row], lowest: float, highest: float, *, margin: float = MARGIN) -> str:
    """Return the SVG: one interval a row on the scale from `lowest` to `highest`, the line at 50, the margin."""

    def x_of(rate: float) -> float:
        return LEFT + (min(max(rate, lowest), highest) - lowest) / (highest - lowest) * (RIGHT - LEFT)

    bottom = TOP + ROW * len(rows)
    left, right = x_of(50 - margin), x_of(50 + margin)
    middle = f"50 +- {margin:g}" if margin else "50"
    parts = [
        *_opened(bottom + 40, title),
        f'<rect x="{left:.1f}" y="{TOP - 10}" width="{right - left:.1f}" height="{bottom - TOP + 10}" fill="#e8eef7"/>',
        f'<line x1="{x_of(50):.1f}" y1="{TOP - 10}" x2="{x_of(50):.1f}" y2="{bottom}" stroke="#333333"/>',
        f'<text x="{x_of(50):.1f}" y="{TOP - 18}" text-anchor="middle" fill="#333333">{middle}</text>',
    ]
    for number, (answer, rate, low, high) in enumerate(rows):
        parts += _row(number, answer, x_of(rate), x_of(low), x_of(high))
    for tick in range(40, int(highest), 5):
        parts.append(_tick(x_of(tick), bottom, f"{tick} %"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _opened(height: int, title: str) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<style>text { font: 14px sans-serif }</style>",
        f"<title>{title}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]


def _row(number: int, name: str, at: float, low: float, high: float) -> list[str]:
    y = TOP + ROW * number + ROW / 2
    return [
        f'<text x="{LEFT - 14}" y="{y + 5:.1f}" text-anchor="end" fill="#111111">{name}</text>',
        f'<path d="M{low:.1f} {y:.1f}H{high:.1f}" stroke="#1b5fab" stroke-width="4"/>',
        f'<circle cx="{at:.1f}" cy="{y:.1f}" r="6" fill="#1b5fab"/>',
    ]


def _tick(x: float, bottom: int, text: str) -> str:
    return f'<text x="{x:.1f}" y="{bottom + 24}" text-anchor="middle" fill="#333333">{text}</text>'


PICTURES = {
    "verdict.svg": verdicts,
    "guard.svg": guards,
    "looks.svg": looks,
    "sources.svg": sources,
    "rounds.svg": rounds,
    "shared-cause.svg": shared_cause,
    "votes.svg": votes,
}

if __name__ == "__main__":
    for name, picture in PICTURES.items():
        Path(__file__).with_name(name).write_text(picture(), encoding="utf-8")
