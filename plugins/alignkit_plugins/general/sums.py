"""Arithmetic whose last number is the answer."""

from __future__ import annotations

from collections.abc import Callable

from alignkit_plugins.general.task import Task

_Numbers = tuple[int, ...]
_ONLY = " Give only the number."

_TEMPLATES: tuple[tuple[str, str, Callable[..., float], tuple[_Numbers, ...]], ...] = (
    ("add", "What is {} + {}?", lambda a, b: a + b, ((47, 38), (126, 59), (305, 78), (64, 64), (918, 83))),
    ("subtract", "What is {} - {}?", lambda a, b: a - b, ((92, 35), (150, 67), (401, 58), (73, 19), (1000, 264))),
    ("multiply", "What is {} times {}?", lambda a, b: a * b, ((7, 8), (12, 6), (15, 9), (23, 4), (11, 11))),
    ("divide", "What is {} divided by {}?", lambda a, b: a // b, ((56, 7), (96, 8), (81, 3), (144, 6), (250, 5))),
    (
        "shop",
        "A notebook costs {} euros and a pen {} euros. How many euros do {} notebooks and one pen cost together?",
        lambda book, pen, n: book * n + pen,
        ((3, 2, 4), (5, 1, 3), (4, 3, 6), (6, 5, 2), (2, 4, 9)),
    ),
    (
        "share",
        "{} apples are shared out equally among {} children. How many apples does each child get?",
        lambda n, children: n // children,
        ((24, 6), (35, 5), (48, 4), (63, 9), (90, 6)),
    ),
    (
        "left",
        "A bus carries {} people. At a stop {} get off and {} get on. How many people does it carry then?",
        lambda n, off, on: n - off + on,
        ((30, 12, 5), (41, 9, 14), (18, 11, 3), (52, 25, 25), (27, 8, 16)),
    ),
    (
        "percent",
        "What is {} percent of {}?",
        lambda share, n: share * n // 100,
        ((10, 70), (50, 84), (25, 120), (20, 45), (75, 200)),
    ),
    (
        "next",
        "Which number comes next: {}, {}, {}, {}?",
        lambda a, b, c, d: d + d - c,
        ((3, 6, 9, 12), (5, 12, 19, 26), (40, 35, 30, 25), (2, 13, 24, 35), (100, 88, 76, 64)),
    ),
    (
        "largest",
        "Which of these numbers is the largest: {}, {}, {} or {}?",
        lambda *numbers: max(numbers),
        ((45, 54, 49, 40), (118, 181, 108, 180), (9, 90, 19, 89), (702, 720, 270, 207), (66, 56, 65, 61)),
    ),
)


def tasks() -> list[Task]:
    return [
        Task(
            "sums",
            template,
            pattern.format(*numbers) + _ONLY,
            ({"kind": "number", "number": answer(*numbers)},),
            f"The answer is {answer(*numbers)}.",
            f"The answer is {answer(*numbers) + 1}.",
        )
        for template, pattern, answer, cases in _TEMPLATES
        for numbers in cases
    ]
