"""What a judge is: it looks at completions and returns a number for each, or says why there is none.

One protocol serves training (`--reward`) and judging (`--judge`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from alignkit.data.reading.messages import text_of_turn
from alignkit.options import Options


@dataclass(frozen=True)
class Item:
    """One completion to be scored.

    `prompt` is the conversation before it, a sequence of {"role", "content"}, perhaps with `tool_calls` of OpenAI's
    spelling; the first message may hold the conversation's `tools`. `row` is the data row with every column. `rival` is
    the other completion, where the judge is pairwise: the completion is shown first, the rival second. `name` says in
    errors which row it is; without it the row's id does.
    """

    prompt: Sequence[Mapping[str, Any]]
    completion: str
    row: Mapping[str, Any] = field(default_factory=dict)
    rival: str | None = None
    name: str = field(default="", compare=False)

    @property
    def said(self) -> str:
        """Which row it is, for errors."""
        return self.name or f"row {self.row.get('id', '?')}"

    @property
    def has_tools(self) -> bool:
        """Whether the conversation has tools, calls of them or results."""
        return any("tools" in m or "tool_calls" in m or m["role"] == "tool" for m in self.prompt)

    @property
    def turns(self) -> list[tuple[str, str]]:
        """The role and the text of each turn before the completion; tools are a first turn, calls lines of JSON."""
        tools = self.prompt[0].get("tools") if self.prompt else None
        listed = [("tools", "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))] if tools else []
        return [*listed, *((message["role"], text_of_turn(message)) for message in self.prompt)]


@dataclass(frozen=True)
class Scored:
    """A finite score; higher is better. Scores of different prompts need not be comparable.

    A pairwise judge's score is 1 where the completion beats its rival, 0 where it loses and 0.5 where they tie. `raw`
    is the judge's reply word for word, where it gave one; the ledger keeps it.
    """

    value: float
    raw: str | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Missing:
    """No score, and why. Never counted as a number.

    `applies=False` says that this judge has nothing to say about this row (left out for the whole group), rather
    than that scoring failed.
    """

    reason: str
    applies: bool = True


class JudgeConfig(Options):
    """A judge's options, given as [judge.NAME] in alignkit.toml."""


@dataclass(frozen=True)
class Cost:
    """What scoring would take: requests sent, seconds at least, and money, `price` a text such as "about 2.00 USD".

    `money` is the same as a number in the user's currency, None where it is not known.
    """

    num_requests: int
    seconds: float
    price: str
    money: float | None = None


class Judge(ABC):
    """Scores completions. A subclass sets `name`, `version`, and whether its score can be checked.

    `version` changes whenever the same completion may get another score. `verifiable` says that the score is a rule
    anyone can check, so that it may be reward and judge at once. Every score is kept in the ledger under the name, the
    version, `parameters()` and `given(item)`; what all four agree on is not scored again.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    Config: ClassVar[type[JudgeConfig]] = JudgeConfig
    verifiable: ClassVar[bool] = False
    paid: ClassVar[bool] = False
    """Scoring costs money: asked for before any is spent."""
    pairwise: ClassVar[bool] = False
    """Compares two completions of a prompt (`Item.rival`) instead of scoring one."""
    sees_order: ClassVar[bool] = True
    """Where it compares two, the answer may depend on which is shown first: how often is said, and such pairs tie."""
    default_for: ClassVar[frozenset[str]] = frozenset()
    """Of {"reward", "judge"}: where it is taken if no judge is named and `applies_to` holds."""
    why_default: ClassVar[str] = ""
    """Why it is taken then, a clause: "the rows carry rules that anyone can check"."""
    why_not_default: ClassVar[str] = ""
    """What is missing where `applies_to` does not hold, a clause: "the rows carry no rules"."""

    def __init__(self, config: JudgeConfig | None = None) -> None:
        self.config = config if config is not None else self.Config()

    @abstractmethod
    def score(self, items: Sequence[Item]) -> list[Scored | Missing]:
        """Return one answer for each item, in order.

        Raises:
            AlignkitError: nothing can be scored at all (no key, no model), with what to do.
        """

    def stream(self, items: Sequence[Item]) -> Iterator[Mapping[int, Scored | Missing]]:
        """Yield the answers in parts, {index of the item: answer}; the ledger keeps a part before it takes the next.

        A judge that answers one item after another overrides this, so that nothing is lost when the process dies.
        Raises as `score`.
        """
        yield dict(enumerate(self.score(items)))

    def parameters(self) -> Mapping[str, Any]:
        """Everything beside the item that decides its score, of JSON types: a part of the ledger's key."""
        return self.config.model_dump(mode="json")

    def given(self, item: Item) -> Any:
        """Everything of an item that the judge looks at, of JSON types: a part of the ledger's key."""
        return {
            "prompt": [dict(message) for message in item.prompt],
            "completion": item.completion,
            "row": dict(item.row),
            "rival": item.rival,
        }

    @property
    def remote(self) -> bool:
        """Scoring waits for another machine: in training it then runs while the next prompts' samples are drawn."""
        return False

    def cost(self, num_items: int) -> Cost:
        """What scoring that many items would take; shown before anything is spent."""
        return Cost(num_items, 0.0, "nothing is known of the price")

    def destination(self) -> str:
        """Where texts are sent, and with which key: "https://host/v1 with the key in VARIABLE"; "" where nothing is."""
        return ""

    def check_key(self) -> None:
        """Check what a paid judge needs before its cost is agreed to: a key, an address. Nothing is sent.

        Raises:
            AlignkitError: it is not there, with the ways out.
        """

    def ready(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Check before anything expensive is loaded that rows like these can be scored.

        Raises:
            AlignkitError: they cannot, with the ways out.
        """

    @classmethod
    def applies_to(cls, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether it can score all of these rows and finds what it needs: a key, a model. Nothing is sent."""
        return True

    @classmethod
    def default_spec(cls) -> str:
        """Return the SPEC that names it where it was taken by default; here its name."""
        return cls.name

    def close(self) -> None:
        """Free what was loaded."""


def unreadable(item: Item) -> str | None:
    """Why no model can read an item's texts, or None: a lone surrogate can neither be sent nor tokenized."""
    texts = [*(text for _, text in item.turns), item.completion, item.rival or ""]
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError:
        return "the text holds a lone surrogate, which is no valid Unicode"
    return None


def counted(reasons: Sequence[str], limit: int = 3) -> str:
    """Count equal reasons, the most frequent first.

    >>> counted(["HTTP 500", "empty reply", "HTTP 500"])
    '2 HTTP 500, 1 empty reply'
    """
    counts = Counter(reasons).most_common()
    more = sum(number for _, number in counts[limit:])
    shown = [f"{number} {reason}" for reason, number in counts[:limit]]
    return ", ".join([*shown, *([f"{more} other"] if more else [])])
