"""What an HTTP answer means: use it, ask again, leave this item, or stop asking this endpoint.

    200 with a JSON object          use it, or ask again where it cannot be read
    400 with "DEGRADED"             ask again, after long
    401, 403                        stop: the key
    402                             stop: the quota
    404, 410                        stop: the model is not served (any more)
    3xx                             stop: the address moved; a key is not sent on
    408, 425, 5xx, garbage          ask again
    429                             ask again, not before Retry-After where it is given (seconds or a date)
    other 4xx                       leave this item: it cannot be scored as it is

Source: ../../docs/guide/nemotron.md says where each was seen. NVIDIA's gateway puts {"status", "title", "detail"} into
the body, OpenAI's kind {"error": {"message"}}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from alignkit.display import shortened

_SHOWN = 200  # characters of an error body


@dataclass(frozen=True)
class Ok:
    """A JSON object, and the text it was read from."""

    body: dict[str, Any]
    text: str


@dataclass(frozen=True)
class Retry:
    """Ask again. `after_s` is what the other side asked for; `slow_down` says that it was too much at once."""

    reason: str
    after_s: float | None = None
    slow_down: bool = False
    long: bool = False


@dataclass(frozen=True)
class Rejected:
    """This item cannot be scored as it is."""

    reason: str


@dataclass(frozen=True)
class Fatal:
    """Nothing will be scored there: why, and what to do."""

    reason: str


Reply = Ok | Retry | Rejected | Fatal


def read_reply(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime | None = None,
    clean: Callable[[str], str] = str,
) -> Reply:
    """Say what an answer means.

    Args:
        headers: by lower-case name.
        now: the time that a Retry-After date is compared with; default: the present.
        clean: what is done to a text before it is shortened: of what it would cut out, no half is left.
    """
    text = body.decode("utf-8", "replace")
    if status == 200:
        return _useful(text, headers.get("content-type", ""), clean)
    said = f"{status} {_short(clean(_detail(text)))}".strip()
    if status == 400 and "DEGRADED" in text:
        return Retry(said, long=True)
    if status == 429:
        return Retry(said, after_s=retry_after(headers.get("retry-after"), now=now), slow_down=True)
    if status in (408, 425) or status >= 500:
        return Retry(said, after_s=retry_after(headers.get("retry-after"), now=now))
    todo = {
        401: "the key is missing or not accepted: set the environment variable that holds it",
        403: "the key is not accepted for this model: make another one, or name another model",
        402: "the account has no credits left",
        404: "this model is not served there for this account: name another model or base_url",
        410: "this model is served no longer: name another model, or judge with a local reward model",
    }
    if status in todo:
        return Fatal(f"{said}; {todo[status]}")
    if status < 400:
        return Fatal(f"{status} to {headers.get('location', 'nowhere')!r}; set base_url to where the service is")
    return Rejected(said)


def retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Seconds to wait by a Retry-After header: seconds or an HTTP date; None where it says nothing.

    Source: RFC 9110, section 10.2.3; fractions of seconds are taken too.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _useful(text: str, content_type: str, clean: Callable[[str], str]) -> Reply:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        kind = content_type.partition(";")[0] or "no content type"
        return Retry(f"200 with {kind} in place of JSON (is base_url right?): {_short(clean(text))}")
    if not isinstance(body, dict):
        return Retry(f"200 with JSON that is no object: {_short(clean(text))}")
    return Ok(body, text)


def _detail(text: str) -> str:
    """The message of an error body."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(body, dict):
        return text
    error = body.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    parts = [part for part in (body.get("title"), body.get("detail"), message) if isinstance(part, str)]
    return ": ".join(parts) if parts else text


def _short(text: str) -> str:
    return shortened(" ".join(text.split()), _SHOWN)
