"""What is said of validation prompts before anything is trained: how small a difference a verdict on them finds."""

from __future__ import annotations

from alignkit.judging.planner import DIFFERENCE, detectable, prompts_for

_MOST_HELD = 0.3  # share of the rows that is proposed to be held back, at most


def finds(num_prompts: int) -> str:
    """What a verdict on so many prompts finds in 80 of 100 cases.

    >>> finds(3), finds(120)
    ('no difference', 'differences of 14 points')
    """
    found = detectable(num_prompts)
    return "no difference" if found is None else f"differences of {found:.0f} points"


def validation_finds(num_prompts: int) -> str:
    """The same of validation prompts, with how many prompts find `DIFFERENCE` points where these do not."""
    wanted = prompts_for(DIFFERENCE)
    prompts = "1 validation prompt finds" if num_prompts == 1 else f"{num_prompts:,} validation prompts find"
    more = "" if num_prompts >= wanted else f", {wanted} find {DIFFERENCE:g} points"
    return f"verdict: {prompts} {finds(num_prompts)}{more}"


def better_split(num_all: int, num_held: int) -> float | None:
    """A share to hold back of all prompts that at least doubles what is held; None where these are enough, or no share
    does."""
    wanted = prompts_for(DIFFERENCE)
    share = min(_MOST_HELD, round(wanted / num_all, 2))
    return share if num_held < wanted and round(share * num_all) > 2 * num_held else None
