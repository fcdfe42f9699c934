"""Draws verdict.svg, the picture of docs/judging/README.md: python docs/judging/draw.py"""

from __future__ import annotations

from pathlib import Path

CASES = (
    ("better", 55.8, 52.1, 59.6),
    ("worse", 43.9, 40.2, 47.5),
    ("no difference that matters", 50.6, 48.2, 52.7),
    ("not enough evidence", 53.0, 48.1, 57.9),
)
LOW, HIGH, MARGIN = 38.0, 62.0, 3.0
WIDTH, LEFT, RIGHT, ROW, TOP = 720, 220, 700, 44, 40


def x_of(rate: float) -> float:
    return LEFT + (rate - LOW) / (HIGH - LOW) * (RIGHT - LEFT)


def picture() -> str:
    """Return the SVG: one interval a row, the line at 50 and the margin around it."""
    bottom = TOP + ROW * len(CASES)
    left, right = x_of(50 - MARGIN), x_of(50 + MARGIN)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 40}" role="img">',
        "<style>text { font: 14px sans-serif }</style>",
        "<title>Four intervals of a win rate and the verdict on each</title>",
        f'<rect width="{WIDTH}" height="{bottom + 40}" fill="#ffffff"/>',
        f'<rect x="{left:.1f}" y="{TOP - 10}" width="{right - left:.1f}" height="{bottom - TOP + 10}" fill="#e8eef7"/>',
        f'<line x1="{x_of(50):.1f}" y1="{TOP - 10}" x2="{x_of(50):.1f}" y2="{bottom}" stroke="#333333"/>',
        f'<text x="{x_of(50):.1f}" y="{TOP - 18}" text-anchor="middle" fill="#333333">50 +- 3</text>',
    ]
    for number, (answer, rate, low, high) in enumerate(CASES):
        y = TOP + ROW * number + ROW / 2
        parts += [
            f'<text x="{LEFT - 14}" y="{y + 5:.1f}" text-anchor="end" fill="#111111">{answer}</text>',
            f'<path d="M{x_of(low):.1f} {y:.1f}H{x_of(high):.1f}" stroke="#1b5fab" stroke-width="4"/>',
            f'<circle cx="{x_of(rate):.1f}" cy="{y:.1f}" r="6" fill="#1b5fab"/>',
        ]
    for tick in range(40, 61, 5):
        parts.append(
            f'<text x="{x_of(tick):.1f}" y="{bottom + 24}" text-anchor="middle" fill="#333333">{tick} %</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("verdict.svg").write_text(picture(), encoding="utf-8")
