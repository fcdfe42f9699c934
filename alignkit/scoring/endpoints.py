"""Several addresses of one service: which may be asked now, and which are down.

Each has its own token bucket and breaker; a request goes to the one that may be asked soonest, in turn. All methods may
be called from many threads.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from alignkit.scoring.limits import Breaker, TokenBucket

_SAID_AFTER_S = 5.0  # of requests that fail
_SAID_EVERY_S = 60.0


class Down(Exception):
    """No endpoint answered for so long that waiting on is pointless; the next call tries again."""


class NoneLeft(Exception):
    """Every endpoint refuses for good: why, and what to do."""


@dataclass
class Endpoint:
    """One address and what is known of it."""

    url: str
    bucket: TokenBucket
    breaker: Breaker
    paused_until: float = -math.inf
    num_slowed_down: int = 0
    failing_since: float | None = None
    failed_at: float = -math.inf
    last_reason: str = ""
    refuses: str | None = None

    def delay(self, now: float) -> float:
        return max(self.bucket.delay(now), self.breaker.delay(now), self.paused_until - now, 0.0)


@dataclass(frozen=True)
class Turn:
    """Leave to send one request; `trial` says that it decides whether the endpoint is asked again."""

    endpoint: Endpoint
    trial: bool


@dataclass
class Endpoints:
    """The addresses of one service.

    Args:
        patience_s: how long all of them may fail before `turn` raises Down.
        pause_s: wait after the first "too many requests" that names none; doubles up to `max_pause_s`.
        jitter: a number in [0, 1), so that waits differ.
        say: is told, in one line now and then, that requests have failed for some time.
    """

    members: Sequence[Endpoint]
    patience_s: float
    pause_s: float
    max_pause_s: float
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    say: Callable[[str], None] = lambda text: None
    _since: float = -math.inf
    _last_at: float = -math.inf
    _num_failed: int = 0
    _said_at: float = -math.inf
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _next: int = 0

    def turn(self, stopping: threading.Event) -> Turn | None:
        """Wait until a request may be sent; None where the work is being stopped.

        Raises:
            Down: none has answered for `patience_s`.
            NoneLeft: all refuse for good.
        """
        with self._changed:
            while not stopping.is_set():
                now = self.clock()
                left = [endpoint for endpoint in self.members if endpoint.refuses is None]
                if not left:
                    raise NoneLeft("; ".join(f"{endpoint.url}: {endpoint.refuses}" for endpoint in self.members))
                order = left[self._next % len(left) :] + left[: self._next % len(left)]
                best = min(order, key=lambda endpoint: endpoint.delay(now))
                delay = best.delay(now)
                if delay <= 0:
                    self._next += 1
                    best.bucket.take(now)
                    return Turn(best, best.breaker.sent())
                if all(self._is_down(endpoint, now) for endpoint in left):
                    raise Down("; ".join(self._why_down(endpoint, now) for endpoint in left))
                self._changed.wait(min(delay, 1.0))
        return None

    def worked(self, turn: Turn) -> None:
        """The endpoint answered as it should."""
        with self._changed:
            turn.endpoint.breaker.worked()
            turn.endpoint.failing_since, turn.endpoint.num_slowed_down = None, 0
            self._changed.notify_all()

    def failed(self, turn: Turn, reason: str) -> None:
        """The endpoint gave no answer, or one that cannot be used."""
        with self._changed:
            now = self.clock()
            self._note(turn.endpoint, reason, now)
            turn.endpoint.breaker.failed(now, trial=turn.trial)
            self._changed.notify_all()

    def slow_down(self, turn: Turn, reason: str, after_s: float | None) -> None:
        """The endpoint said that it was asked too often; nobody asks it before the pause is over."""
        with self._changed:
            now, endpoint = self.clock(), turn.endpoint
            self._note(endpoint, reason, now)
            if after_s is None:
                longest = min(self.max_pause_s, self.pause_s * 2.0**endpoint.num_slowed_down)
                after_s = longest * (0.5 + 0.5 * self.jitter())
            endpoint.num_slowed_down = min(endpoint.num_slowed_down + 1, 30)
            endpoint.paused_until = max(endpoint.paused_until, now + after_s)
            endpoint.bucket.drain(now)
            if turn.trial:
                endpoint.breaker.gave_up()
            self._changed.notify_all()

    def refuse(self, turn: Turn, reason: str) -> None:
        """The endpoint refuses for good."""
        with self._changed:
            turn.endpoint.refuses = reason
            self._changed.notify_all()

    def wake(self) -> None:
        """Let those who wait look whether the work is being stopped."""
        with self._changed:
            self._changed.notify_all()

    def _note(self, endpoint: Endpoint, reason: str, now: float) -> None:
        if endpoint.failing_since is None or now - endpoint.failed_at > self.patience_s:  # long not asked
            endpoint.failing_since = now
        endpoint.failed_at, endpoint.last_reason = now, reason
        self._say_failing(now, f"{endpoint.url}: {reason}")

    def _say_failing(self, now: float, last: str) -> None:
        """Count a failure; say so once they have come for some time, and again while they go on to come."""
        if not self._num_failed or now - self._last_at > _SAID_EVERY_S:  # long all went well
            self._since, self._num_failed = now, 0
        self._last_at = now
        self._num_failed += 1
        if now - self._since >= _SAID_AFTER_S and now - self._said_at >= _SAID_EVERY_S:
            self._said_at = now
            failed = f"{self._num_failed:,} requests failed or had answers that cannot be used"
            self.say(f"{failed} in {now - self._since:.0f} s; asking goes on; the last: {last}")

    def _is_down(self, endpoint: Endpoint, now: float) -> bool:
        """Failing for longer than the patience, the last time not long ago; or told to wait for longer."""
        if endpoint.failing_since is None:
            return False
        failed_lately = now - endpoint.failed_at <= self.patience_s
        failed_for_long = now - endpoint.failing_since > self.patience_s
        return (failed_for_long and failed_lately) or endpoint.paused_until - now > self.patience_s

    def _why_down(self, endpoint: Endpoint, now: float) -> str:
        wait_s = endpoint.paused_until - now
        if wait_s > self.patience_s:
            return f"{endpoint.url} asks to wait {wait_s:.0f} s: {endpoint.last_reason}"
        failing_s = now - (endpoint.failing_since if endpoint.failing_since is not None else now)
        return f"{endpoint.url} has not answered for {failing_s:.0f} s: {endpoint.last_reason}"
