"""A client of one scoring service: many requests at once, none lost, none sent twice without need.

Retries are per item (`max_attempts`); what is wrong with an address is not held against the item that met it: while a
breaker is open or an address asks to slow down, items wait, at most `max_outage_s`. Answers are handed on as they
arrive. The key is read from the environment, sent in one header to https or this machine only, and cut out of every
text that comes back. A request has one deadline for all of it (services/http.py), and Ctrl-C waits for no answer.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
)

from alignkit.errors import RunStopped, UsageError
from alignkit.scoring.judge import Missing, Scored
from alignkit.scoring.remote.keys import KeyCleaner, may_carry_key
from alignkit.scoring.remote.replies import Fatal, Ok, Rejected, Retry, read_reply
from alignkit.services.addresses import Address, Addresses, Breaker, Exhausted, Lease, TokenBucket, Unavailable
from alignkit.services.http import Answer, NotAnswered, Requests, Stopped

if TYPE_CHECKING:
    from alignkit.scoring.remote.judge import ClientConfig

_logger = logging.getLogger(__name__)
_MAX_BODY = 1 << 20  # bytes of an answer
_CONNECT_S = 10.0
_INTERRUPTED_S = 1.0  # for answers under way when the work is stopped: they are paid for
_LONG = 8.0  # times the usual wait, for a degraded model
Read = Callable[[Mapping[str, Any], str], Scored | Missing]


class _Retry(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, reply: Retry) -> None:
        super().__init__(reply.reason)
        self.reply = reply


@dataclass(frozen=True)
class _Failure:
    """What ended the work: raised once every answer that arrived was handed on."""

    error: BaseException


class ChatClient:
    """Asks a service.

    Args:
        label: what messages call the judge.
        key: sent as a bearer token, where there is one.
        paths: where bodies go, behind each address: to the first of these that the service has.
        models: where the list of models is.
    """

    def __init__(
        self,
        config: ClientConfig,
        *,
        label: str,
        key: SecretStr | None,
        paths: Sequence[str] = ("/chat/completions",),
        models: str = "/models",
    ) -> None:
        self.config, self.label, self._key, self._paths, self._models = config, label, key, paths, models
        self._cleaner = KeyCleaner(key)
        self._http = Requests(
            config.base_url, max_connections=config.max_in_flight, connect_s=min(_CONNECT_S, config.timeout_s)
        )
        self._stopping = threading.Event()
        self._addresses = Addresses(
            [
                Address(
                    url,
                    TokenBucket(config.requests_per_minute, capacity=max(1.0, config.requests_per_minute / 60)),
                    Breaker(cooldown_s=5 * config.backoff_s, max_cooldown_s=config.max_backoff_s),
                )
                for url in config.base_url
            ],
            patience_s=config.max_outage_s,
            pause_s=config.backoff_s,
            max_pause_s=config.max_backoff_s,
            say=partial(_logger.warning, "%s: %s", label),
        )

    def stream(self, bodies: Sequence[bytes], read: Read) -> Iterator[dict[int, Scored | Missing]]:
        """Send every body and yield {number: answer} as answers arrive, as many as there are at a time.

        Args:
            bodies: JSON texts, one per request.
            read: an answer's JSON object and its text -> a score, or Missing where asking again is no use; ValueError
                says that it is garbled, and it is asked again.

        Raises:
            RunStopped: every address refuses for good; what had been answered was yielded before.
        """
        self._stopping.clear()
        self._http.go_on()
        _ = self.path
        arrived: queue.SimpleQueue[tuple[int, Scored | Missing | _Failure]] = queue.SimpleQueue()
        waiting, room = iter(range(len(bodies))), threading.Semaphore(self.config.max_in_flight)
        threads = [
            threading.Thread(target=self._work, args=(waiting, room, bodies, read, arrived), daemon=True)
            for _ in range(min(self.config.max_in_flight, len(bodies)))
        ]
        for thread in threads:
            thread.start()
        left, failure = len(bodies), None
        try:
            while left and failure is None:
                try:
                    part, failure = _collect(arrived)
                except KeyboardInterrupt as error:
                    failure, part = error, {}
                left -= len(part)
                yield part
                room.release(len(part) or 1)
            if failure is not None:
                self._stop(threads, room, wait_s=_INTERRUPTED_S if isinstance(failure, KeyboardInterrupt) else None)
                yield _collect(arrived, wait=False)[0]
        finally:
            self._stop(threads, room, wait_s=_INTERRUPTED_S)
        if failure is not None:
            raise failure

    def check(self) -> None:
        """Ask each address for its models, which costs nothing, to find a wrong address before any work is done.

        Raises:
            UsageError: no address can be reached, or one answers with a web page.
        """
        problems = {url: problem for url in self.config.base_url if (problem := self._problem(url))}
        if len(problems) == len(self.config.base_url):
            said = "; ".join(f"{url} {problem}" for url, problem in problems.items())
            raise UsageError(f"judge {self.label!r} cannot be asked: {said}; set base_url in [judge.{self.label}]")

    @cached_property
    def path(self) -> str:
        """Where bodies go. A path that is there refuses a GET as the wrong method (405), which costs nothing."""
        there = (path for path in self._paths for url in self.config.base_url if self._status(f"{url}{path}") == 405)
        return self._paths[0] if len(self._paths) == 1 else next(there, self._paths[0])

    def close(self) -> None:
        """Close the connections."""
        self._stopping.set()
        self._addresses.wake()
        self._http.close()

    def _work(
        self, waiting: Iterator[int], room: threading.Semaphore, bodies: Sequence[bytes], read: Read, arrived: Any
    ) -> None:
        """One thread: takes the next body until there is none (a range's iterator may be shared by threads).

        There is `room` until answers were taken and kept: no more is bought twice by a kill, however slow the disk.
        """
        try:
            for number in waiting:
                room.acquire()
                answer = self._ask(bodies[number], read)
                if answer is None:
                    return
                arrived.put((number, answer))
        except Exhausted as error:
            arrived.put((-1, _Failure(RunStopped(f"judge {self.label!r} refuses: {error}"))))
        except BaseException as error:
            arrived.put((-1, _Failure(error)))

    def _stop(self, threads: Sequence[threading.Thread], room: threading.Semaphore, *, wait_s: float | None) -> None:
        """Send nothing more, wait so long for answers that are under way (None: as long as they may take), and end."""
        self._stopping.set()
        room.release(len(threads) + 1)
        self._addresses.wake()
        until = time.monotonic() + (self.config.timeout_s if wait_s is None else wait_s)
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._http.stop()
        for thread in threads:
            thread.join(_INTERRUPTED_S)

    def _ask(self, body: bytes, read: Read) -> Scored | Missing | None:
        """Send one body until it is answered; None where the work was stopped before."""
        retrying = Retrying(
            retry=retry_if_exception_type(_Retry),
            stop=stop_after_attempt(self.config.max_attempts) | stop_when_event_set(self._stopping),
            wait=self._wait,
            sleep=sleep_using_event(self._stopping),
            reraise=True,
        )
        try:
            return retrying(self._attempt, body, read)
        except _Retry as error:
            if self._stopping.is_set():
                return None
            return Missing(f"{self.config.max_attempts} attempts failed, the last with {error}")
        except Unavailable as error:
            return Missing(str(error))
        except Stopped:
            return None

    def _attempt(self, body: bytes, read: Read) -> Scored | Missing | None:
        """Send one body once, not counting what an address's own trouble cost."""
        while (lease := self._addresses.lease(self._stopping)) is not None:
            reply = self._send(lease, body)
            if isinstance(reply, Retry) and reply.slow_down:
                self._addresses.slow_down(lease, reply.reason, reply.after_s)
            elif isinstance(reply, Retry):
                self._addresses.failed(lease, reply.reason)
                if not lease.trial:
                    raise _Retry(reply)
            elif isinstance(reply, Fatal):
                _logger.warning("%s: %s: %s", self.label, lease.address.url, reply.reason)
                self._addresses.refuse(lease, reply.reason)
            elif isinstance(reply, Rejected):
                self._addresses.worked(lease)
                return Missing(reply.reason)
            else:
                try:
                    answer = self._cleaned(read(reply.body, reply.text))
                except (ValueError, RecursionError) as error:
                    said = self._clean(str(error))
                    self._addresses.failed(lease, said)
                    raise _Retry(Retry(said)) from None
                self._addresses.worked(lease)
                return answer
        return None

    def _send(self, lease: Lease, body: bytes) -> Any:
        """Send one request and read its answer, whatever happens; None where the work was stopped."""
        url = f"{lease.address.url}{self.path}"
        try:
            return self._read(self._request("POST", url, timeout_s=self.config.timeout_s, content=body))
        except NotAnswered as error:
            return Retry(self._clean(str(error)))
        except RecursionError:
            return Retry("an answer that is nested too deep")

    def _request(self, verb: str, url: str, *, timeout_s: float, content: bytes | None = None) -> Answer:
        """Send a request; only what was sent content to is read to its end."""
        return self._http.send(
            verb,
            url,
            headers=self._headers(url),
            timeout_s=timeout_s,
            content=content,
            max_body=None if content is None else _MAX_BODY,
        )

    def _read(self, answer: Answer) -> Any:
        """What an answer means, the key cut out before it is parsed (as it is) and after (in another writing)."""
        headers = {name: self._clean(value) for name, value in answer.headers.items()}
        plain = self._cleaner.plain(answer.body.decode("utf-8", "replace"))
        reply = read_reply(answer.status, headers, plain.encode(), clean=self._clean)
        if isinstance(reply, Ok):
            return Ok(self._cleaner.value(reply.body), self._clean(reply.text))
        return replace(reply, reason=self._clean(reply.reason))

    def _cleaned(self, answer: Scored | Missing) -> Scored | Missing:
        """What a judge read, without the key: it may have joined parts of it."""
        if isinstance(answer, Missing):
            return replace(answer, reason=self._clean(answer.reason))
        return answer if answer.raw is None else replace(answer, raw=self._clean(answer.raw))

    def _headers(self, url: str) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None and may_carry_key(url):
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        return headers

    def _clean(self, text: str) -> str:
        """Cut the key out, should the other side repeat it."""
        return self._cleaner.text(text)

    def _wait(self, state: RetryCallState) -> float:
        """Seconds before the next attempt: doubling, with jitter, not sooner than asked for."""
        error = state.outcome.exception() if state.outcome is not None else None
        reply = error.reply if isinstance(error, _Retry) else Retry("")
        longest = self.config.backoff_s * 2.0 ** min(state.attempt_number - 1, 30) * (_LONG if reply.long else 1.0)
        asked_s = min(reply.after_s or 0.0, self.config.max_outage_s)
        return max(asked_s, min(self.config.max_backoff_s, longest) * (0.5 + 0.5 * random.random()))

    def _status(self, url: str) -> int | None:
        try:
            return self._request("GET", url, timeout_s=min(_CONNECT_S, self.config.timeout_s)).status
        except NotAnswered:
            return None

    def _problem(self, url: str) -> str | None:
        try:
            answer = self._request("GET", f"{url}{self._models}", timeout_s=min(_CONNECT_S, self.config.timeout_s))
        except NotAnswered as error:
            return self._clean(f"cannot be reached ({error})")
        kind = answer.headers.get("content-type", "")
        return self._clean(f"answers with a web page ({kind})") if answer.status == 200 and "html" in kind else None


def _collect(arrived: Any, *, wait: bool = True) -> tuple[dict[int, Scored | Missing], BaseException | None]:
    """Take everything that has arrived, waiting for the first; the error among it, if any, comes apart."""
    part: dict[int, Scored | Missing] = {}
    failure: BaseException | None = None
    while True:
        try:
            number, answer = arrived.get(block=wait)
        except queue.Empty:
            return part, failure
        if isinstance(answer, _Failure):
            failure = answer.error
        else:
            part[number] = answer
        wait = False
