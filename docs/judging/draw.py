"""Draws the pictures of docs/judging/README.md: python docs/judging/draw.py"""

from __future__ import annotations

from pathlib import Path

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


def x_of(rate: float) -> float:
    return LEFT + (rate - LOW) / (HIGH - LOW) * (RIGHT - LEFT)


def verdicts() -> str:
    """Return the SVG: one interval a row, the line at 50 and the margin around it."""
    bottom = TOP + ROW * len(CASES)
    left, right = x_of(50 - MARGIN), x_of(50 + MARGIN)
    parts = [
        *_opened(bottom + 40, "Four intervals of a win rate and the verdict on each"),
        f'<rect x="{left:.1f}" y="{TOP - 10}" width="{right - left:.1f}" height="{bottom - TOP + 10}" fill="#e8eef7"/>',
        f'<line x1="{x_of(50):.1f}" y1="{TOP - 10}" x2="{x_of(50):.1f}" y2="{bottom}" stroke="#333333"/>',
        f'<text x="{x_of(50):.1f}" y="{TOP - 18}" text-anchor="middle" fill="#333333">50 +- 3</text>',
    ]
    for number, (answer, rate, low, high) in enumerate(CASES):
        parts += _row(number, answer, x_of(rate), x_of(low), x_of(high))
    for tick in range(40, 61, 5):
        parts.append(_tick(x_of(tick), bottom, f"{tick} %"))
    return "\n".join([*parts, "</svg>"]) + "\n"


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


PICTURES = {"verdict.svg": verdicts, "guard.svg": guards}

if __name__ == "__main__":
    for name, picture in PICTURES.items():
        Path(__file__).with_name(name).write_text(picture(), encoding="utf-8")
