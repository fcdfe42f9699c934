"""Several addresses of one service: which may be asked now, and which are down.

Each has its own token bucket and breaker; a request goes to the one that may be asked soonest, in turn. All methods of
`Addresses` may be called from many threads.

    bucket     tokens(t) = min(capacity, tokens + (t - then) * rate); a request takes one
    breaker    closed --n failures in a row--> open --cool-down--> one trial --works--> closed
                                                 ^--------fails, the cool-down doubles--'

Bucket and breaker are pure: they take the time, in seconds of one monotonic clock, and return how long to wait.
"""

from __future__ import annotations

import ipaddress
import math
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_SAID_AFTER_S = 5.0  # of requests that fail
_SAID_EVERY_S = 60.0


class Unavailable(Exception):
    """No address answered for so long that waiting on is pointless; the next call tries again."""


class Exhausted(Exception):
    """Every address refuses for good: why, and what to do."""


@dataclass
class Address:
    """One address and what is known of it.

    Args:
        bucket: how often it may be asked; default: as often as wanted.
        breaker: when it is left alone for a while; default: never.
        max_in_flight: leases that may be out at a time.
    """

    url: str
    bucket: TokenBucket = field(default_factory=lambda: TokenBucket(1.0, capacity=math.inf))
    breaker: Breaker = field(default_factory=lambda: Breaker(failures=sys.maxsize, cooldown_s=0.0, max_cooldown_s=0.0))
    max_in_flight: float = math.inf
    in_flight: int = 0
    paused_until: float = -math.inf
    num_slowed_down: int = 0
    failing_since: float | None = None
    failed_at: float = -math.inf
    last_reason: str = ""
    refuses: str | None = None

    def delay(self, now: float) -> float:
        """Seconds until it may be asked; infinite until something else ends."""
        if self.in_flight >= self.max_in_flight:
            return math.inf
        return max(self.bucket.delay(now), self.breaker.delay(now), self.paused_until - now, 0.0)


@dataclass(frozen=True)
class Lease:
    """Leave to send one request; `trial` says that it decides whether the address is asked again."""

    address: Address
    trial: bool


@dataclass
class Addresses:
    """The addresses of one service.

    Args:
        patience_s: how long all of them may fail before `lease` raises Unavailable.
        pause_s: wait after the first "too many requests" that names none; doubles up to `max_pause_s`.
        jitter: a number in [0, 1), so that waits differ.
        say: called now and then with one line, while requests have been failing for some time.
    """

    members: Sequence[Address]
    patience_s: float = math.inf
    pause_s: float = 1.0
    max_pause_s: float = 60.0
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    say: Callable[[str], None] = lambda text: None
    _since: float = -math.inf
    _last_at: float = -math.inf
    _num_failed: int = 0
    _said_at: float = -math.inf
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _next: int = 0

    def lease(self, stopping: threading.Event) -> Lease | None:
        """Wait until a request may be sent; None where the work is being stopped.

        Raises:
            Unavailable: none has answered for `patience_s`.
            Exhausted: all refuse for good.
        """
        with self._changed:
            while not stopping.is_set():
                now = self.clock()
                left = [address for address in self.members if address.refuses is None]
                if not left:
                    raise Exhausted("; ".join(f"{address.url}: {address.refuses}" for address in self.members))
                order = left[self._next % len(left) :] + left[: self._next % len(left)]
                best = min(order, key=lambda address: address.delay(now))
                delay = best.delay(now)
                if delay <= 0:
                    self._next += 1
                    best.bucket.take(now)
                    best.in_flight += 1
                    return Lease(best, best.breaker.sent())
                if all(self._is_down(address, now) for address in left):
                    raise Unavailable("; ".join(self._why_down(address, now) for address in left))
                self._changed.wait(min(delay, 1.0))
        return None

    def worked(self, lease: Lease) -> None:
        """The address answered as it should."""
        with self._changed:
            lease.address.in_flight -= 1
            lease.address.breaker.worked()
            lease.address.failing_since, lease.address.num_slowed_down = None, 0
            self._changed.notify_all()

    def failed(self, lease: Lease, reason: str) -> None:
        """The address gave no answer, or one that cannot be used."""
        with self._changed:
            now = self.clock()
            lease.address.in_flight -= 1
            self._note(lease.address, reason, now)
            lease.address.breaker.failed(now, trial=lease.trial)
            self._changed.notify_all()

    def slow_down(self, lease: Lease, reason: str, after_s: float | None) -> None:
        """The address said that it was asked too often; nobody asks it before the pause is over."""
        with self._changed:
            now, address = self.clock(), lease.address
            address.in_flight -= 1
            self._note(address, reason, now)
            if after_s is None:
                longest = min(self.max_pause_s, self.pause_s * 2.0**address.num_slowed_down)
                after_s = longest * (0.5 + 0.5 * self.jitter())
            address.num_slowed_down = min(address.num_slowed_down + 1, 30)
            address.paused_until = max(address.paused_until, now + after_s)
            address.bucket.drain(now)
            if lease.trial:
                address.breaker.gave_up()
            self._changed.notify_all()

    def refuse(self, lease: Lease, reason: str) -> None:
        """The address refuses for good."""
        with self._changed:
            lease.address.in_flight -= 1
            lease.address.refuses = reason
            self._changed.notify_all()

    def wake(self) -> None:
        """Let those who wait look whether the work is being stopped."""
        with self._changed:
            self._changed.notify_all()

    def _note(self, address: Address, reason: str, now: float) -> None:
        if address.failing_since is None or now - address.failed_at > self.patience_s:  # long not asked
            address.failing_since = now
        address.failed_at, address.last_reason = now, reason
        self._say_failing(now, f"{address.url}: {reason}")

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

    def _is_down(self, address: Address, now: float) -> bool:
        """Failing for longer than the patience, the last time not long ago; or its server asks for a longer wait."""
        if address.failing_since is None:
            return False
        failed_lately = now - address.failed_at <= self.patience_s
        failed_for_long = now - address.failing_since > self.patience_s
        return (failed_for_long and failed_lately) or address.paused_until - now > self.patience_s

    def _why_down(self, address: Address, now: float) -> str:
        wait_s = address.paused_until - now
        if wait_s > self.patience_s:
            return f"{address.url} asks to wait {wait_s:.0f} s: {address.last_reason}"
        failing_s = now - (address.failing_since if address.failing_since is not None else now)
        return f"{address.url} has not answered for {failing_s:.0f} s: {address.last_reason}"


def is_this_machine(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class TokenBucket:
    """Lets `per_minute` requests per minute through, at most `capacity` of them at once."""

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
        """Start from nothing: the other side asked for fewer requests."""
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
        """The trial ended without an answer either way (the server asked to wait): the next request is the trial."""
        self._trial_under_way = False
