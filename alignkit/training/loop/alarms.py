"""Lines that say when training goes the way reward hacking and collapse go, compared with the run's own start."""

from __future__ import annotations

from collections.abc import Mapping

MAX_LOGPROB_FALL = 0.5  # nats a token
MAX_LENGTH_GROWTH = 1.5  # times the start's


def alarms(metrics: Mapping[str, float], first: Mapping[str, float]) -> list[str]:
    """Return one line for each alarm.

    Args:
        metrics: this validation's numbers.
        first: those before the first step.
    """
    lines = []
    logprob, start = metrics.get("validation/chosen_logprob"), first.get("validation/chosen_logprob")
    if logprob is not None and start is not None and start - logprob > MAX_LOGPROB_FALL:
        lines.append(
            f"alarm: the chosen answers' log-prob fell by {start - logprob:.2f} nats a token since the start: the "
            "model forgets what it should prefer; lower the learning rate or raise beta"
        )
    for name in ("samples/length", "validation/length"):
        length, start = metrics.get(name), first.get(name)
        if length is not None and start and length > MAX_LENGTH_GROWTH * start:
            lines.append(f"alarm: completions grew from {start:.0f} to {length:.0f} tokens since the start")
    return lines
