"""A judge that asks a service: what those have in common. Its subclass says what is sent and what an answer means."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from alignkit.scoring.client_config import ClientConfig, client_cost
from alignkit.scoring.judge import Cost, Item, Judge, Missing, Scored, unreadable

if TYPE_CHECKING:
    from pydantic import SecretStr

    from alignkit.scoring.client import ChatClient


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
        from alignkit.scoring.client import ChatClient

        return ChatClient(self.config, label=self.name, key=self.key(), paths=self.paths, models=self.models)
