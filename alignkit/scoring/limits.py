"""How fast, and whether at all, an endpoint may be asked: a token bucket and a circuit breaker.

Both are pure: they are told the time, in seconds of one monotonic clock, and say how long to wait.

    bucket     tokens(t) = min(capacity, tokens + (t - then) * rate); a request takes one
    breaker    closed --n failures in a row--> open --cool-down--> one trial --works--> closed
                                                 ^--------fails, the cool-down doubles--'
"""

from __future__ import annotations

import math


class TokenBucket:
    """Lets `per_minute` requests a minute through, at most `capacity` of them at once."""

    def __init__(self, per_minute: float, *, capacity: float = 1.0) -> None:
        self.rate = per_minute / 60.0
        self.capacity = capacity
        self._tokens, self._then = capacity, -math.inf

    def delay(self, now: float) -> float:
        """Seconds until a request may go."""
        return max(0.0, (1.0 - self._filled(now)) / self.rate)

    def take(self, now: float) -> None:
        """Count one request, sent now."""
        self._tokens, self._then = self._filled(now) - 1.0, now

    def drain(self, now: float) -> None:
        """Start from nothing: the other side said that it was too much."""
        self._tokens, self._then = min(0.0, self._filled(now)), now

    def _filled(self, now: float) -> float:
        if self._then == -math.inf:
            return self._tokens
        return min(self.capacity, self._tokens + max(0.0, now - self._then) * self.rate)


class Breaker:
    """Stops asking what only fails, and tries it again, once, after a cool-down that doubles up to `max_cooldown_s`."""

    def __init__(self, *, failures: int = 5, cooldown_s: float, max_cooldown_s: float) -> None:
        self.failures, self.cooldown_s, self.max_cooldown_s = failures, cooldown_s, max_cooldown_s
        self._failed_in_a_row = 0
        self._opens_for_s = cooldown_s
        self._open_until: float | None = None
        self._trial_under_way = False

    @property
    def is_open(self) -> bool:
        return self._open_until is not None

    def delay(self, now: float) -> float:
        """Seconds until a request may go; infinite while the one trial is under way."""
        if self._open_until is None:
            return 0.0
        return math.inf if self._trial_under_way else max(0.0, self._open_until - now)

    def sent(self) -> bool:
        """Count a request; returns whether it is the trial of an open breaker."""
        self._trial_under_way = self.is_open
        return self._trial_under_way

    def worked(self) -> None:
        """Close: something answered as it should."""
        self._failed_in_a_row, self._opens_for_s = 0, self.cooldown_s
        self._open_until, self._trial_under_way = None, False

    def failed(self, now: float, *, trial: bool) -> None:
        """Count a failure; opens after enough of them, or again after a failed trial."""
        self._failed_in_a_row += 1
        if trial:
            self._trial_under_way = False
            self._opens_for_s = min(self.max_cooldown_s, 2 * self._opens_for_s)
            self._open_until = now + self._opens_for_s
        elif self._open_until is None and self._failed_in_a_row >= self.failures:
            self._open_until = now + self._opens_for_s

    def gave_up(self) -> None:
        """The trial ended without an answer either way (it was told to wait): the next request is the trial."""
        self._trial_under_way = False
