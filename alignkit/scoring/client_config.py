"""How a remote judge is reached: its options, its key, and what asking it takes. Light: nothing of HTTP is imported."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from alignkit.errors import UsageError
from alignkit.scoring.judge import Cost, JudgeConfig


class ClientConfig(JudgeConfig):
    """Where a remote judge is, and how it is asked. None of these changes a score."""

    base_url: list[str] = Field(description="addresses of the service, up to /v1; requests go to them in turn")
    requests_per_minute: float = Field(35.0, gt=0, description="to each address")
    max_in_flight: int = Field(8, ge=1, le=256, description="requests under way at once")
    timeout_s: float = Field(120.0, gt=0, description="longest wait for one answer, in seconds")
    max_attempts: int = Field(12, ge=1, description="times that one completion is sent before its score is missing")
    backoff_s: float = Field(1.0, gt=0, description="wait after the first failure, in seconds; doubles, with jitter")
    max_backoff_s: float = Field(60.0, gt=0, description="longest wait between two attempts, in seconds")
    max_outage_s: float = Field(600.0, gt=0, description="how long every address may fail before scores are missing")
    price_per_1000: float | None = Field(None, ge=0, description="price of 1,000 requests, for the estimate")

    def variable_of_key(self) -> str | None:
        """The environment variable whose key is sent to these addresses, where there is one."""
        return None

    @field_validator("base_url")
    @classmethod
    def _addresses(cls, urls: list[str]) -> list[str]:
        if not urls:
            raise ValueError("at least one address is needed")
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"{url!r} is no address such as https://host/v1")
            if parts.username or parts.password or parts.query or parts.fragment:
                raise ValueError("an address holds no user, password or query: a key belongs in the environment")
        return [url.rstrip("/") for url in urls]


def client_cost(config: ClientConfig, num_items: int) -> Cost:
    """Requests, seconds at the allowed rate, and the price where it is known."""
    seconds = 60.0 * num_items / (config.requests_per_minute * max(1, len(config.base_url)))
    price = (
        "price unknown (set price_per_1000 to see it)"
        if config.price_per_1000 is None
        else f"about {config.price_per_1000 * num_items / 1000:,.2f} in your currency"
    )
    return Cost(num_items, seconds, price)


def read_key(variable: str) -> SecretStr | None:
    """Read a key from the environment; None where it is not set.

    Raises:
        UsageError: it has characters that no key has, which would be refused on its way with the key in the message.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        return None
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(f"{variable} holds spaces or characters that no key has: set it again, the key alone")
    return SecretStr(key)


def may_carry_key(url: str) -> bool:
    """Whether a key may be sent there: encrypted, or not leaving this machine."""
    return urlsplit(url).scheme == "https" or is_this_machine(url)


def is_this_machine(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
