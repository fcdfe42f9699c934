"""A judge that asks a service: its options, and what such judges have in common. Nothing of HTTP is imported yet.

A subclass says what is sent for an item (`body`), what an answer means (`read`) and where its key comes from (`key`).
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from alignkit.scoring.judge import Cost, Item, Judge, JudgeConfig, Missing, Scored, unreadable

if TYPE_CHECKING:
    from pydantic import SecretStr

    from alignkit.scoring.remote.client import ChatClient


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


class RemoteJudge(Judge):
    """Scores by asking a service, many items at once; answers are handed on as they arrive.

    `paths` is where bodies go, the first that the service has, and `models` where the list of models is.
    """

    paid: ClassVar[bool] = True
    paths: ClassVar[tuple[str, ...]] = ("/chat/completions",)
    models: ClassVar[str] = "/models"
    config: ClientConfig

    @abstractmethod
    def body(self, item: Item) -> bytes:
        """What is sent for an item, as JSON."""

    @abstractmethod
    def read(self, body: Mapping[str, Any], text: str) -> Scored | Missing:
        """One answer, and the text it was read from -> a score, or Missing where asking again is no use.

        Raises:
            ValueError: it is garbled: asking again may help.
        """

    @abstractmethod
    def key(self) -> SecretStr | None:
        """The key that is sent, from the environment.

        Raises:
            UsageError: there is none where one is needed, or nothing says whom to ask.
        """

    def unsendable(self, item: Item) -> str | None:
        """Why an item is not sent, or None."""
        return unreadable(item)

    def score(self, items: Sequence[Item]) -> list[Scored | Missing]:
        """Score items; see `stream`."""
        answers: dict[int, Scored | Missing] = {}
        for part in self.stream(items):
            answers |= part
        return [answers[number] for number in range(len(items))]

    def stream(self, items: Sequence[Item]) -> Iterator[Mapping[int, Scored | Missing]]:
        """Yield scores as they arrive; what cannot be sent is missing with its reason, and costs nothing.

        Raises:
            UsageError: no key, no address or no model.
            RunStopped: every address refuses for good: key, quota, or a model that is not served.
        """
        unsent = {number: Missing(reason) for number, item in enumerate(items) if (reason := self.unsendable(item))}
        if unsent:
            self.left_out(unsent, len(items))
            yield unsent
        numbers = [number for number in range(len(items)) if number not in unsent]
        if numbers:
            for part in self.ask([items[number] for number in numbers]):
                yield {numbers[place]: answer for place, answer in part.items()}

    def ask(self, items: Sequence[Item]) -> Iterator[Mapping[int, Scored | Missing]]:
        """Yield scores of items that can all be sent."""
        return self.client.stream([self.body(item) for item in items], self.read)

    def left_out(self, unsent: Mapping[int, Missing], num_items: int) -> None:
        """Say what is not sent, where that needs saying."""

    @property
    def remote(self) -> bool:
        return bool(self.config.base_url)

    def cost(self, num_items: int) -> Cost:
        return client_cost(self.config, num_items)

    def destination(self) -> str:
        variable = self.config.variable_of_key()
        key = f" with the key in {variable}" if variable is not None and os.environ.get(variable) else ""
        return f"{', '.join(self.config.base_url)}{key}"

    def check_key(self) -> None:
        self.key()

    def ready(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Check the key and the addresses; nothing is paid for.

        Raises:
            UsageError: no key, no model, no address that can be reached, or one with a web page.
        """
        self.client.check()

    def close(self) -> None:
        if "client" in vars(self):
            self.client.close()
            del self.client

    @cached_property
    def client(self) -> ChatClient:
        """The connections, made with the first request."""
        from alignkit.scoring.remote.client import ChatClient

        return ChatClient(self.config, label=self.name, key=self.key(), paths=self.paths, models=self.models)


def client_cost(config: ClientConfig, num_items: int) -> Cost:
    """Requests, seconds at the allowed rate, and the price where it is known."""
    seconds = 60.0 * num_items / (config.requests_per_minute * max(1, len(config.base_url)))
    if config.price_per_1000 is None:
        return Cost(num_items, seconds, "price unknown (set price_per_1000 to see it)")
    money = config.price_per_1000 * num_items / 1000
    return Cost(num_items, seconds, f"about {money:,.2f} in your currency", money)
