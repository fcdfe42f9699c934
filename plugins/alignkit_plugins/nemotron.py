"""`nemotron`: NVIDIA's reward models over their chat-completions API, hosted or self-hosted.

A conversation whose last turn is the scored answer goes out; `reward:<float>` comes back as the message's content, from
the 340B model five attributes instead, which make one score with the weights of its card:

    0.3 helpfulness + 0.74 correctness + 0.46 coherence + 0.47 complexity - 0.33 verbosity

Scores of one prompt are comparable, scores of different prompts are not. Hosted models come and go: address and model
are options. Source: docs/guide/nemotron.md.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from alignkit.plugin import (
    ClientConfig,
    Item,
    Judge,
    JudgeConfig,
    Missing,
    Preset,
    RemoteJudge,
    Scored,
    UsageError,
    hookimpl,
    read_key,
    unreadable,
)

if TYPE_CHECKING:
    from pydantic import SecretStr

KEY = "NVIDIA_API_KEY"
HOSTED = "https://integrate.api.nvidia.com/v1"
_WEIGHTS = {"helpfulness": 0.3, "correctness": 0.74, "coherence": 0.46, "complexity": 0.47, "verbosity": -0.33}
_NAME = re.compile(r"[A-Za-z_][\w .-]*")
_NUMBER = re.compile(r"[-+]?\d{1,30}(?:\.\d{1,60})?(?:[eE][-+]?\d{1,5})?")
_BYTES_A_TOKEN = 4  # English text
_logger = logging.getLogger(__name__)


class NemotronConfig(ClientConfig):
    """Which model, where, and what is done with conversations it does not take."""

    base_url: list[str] = Field([HOSTED], description="addresses of the service, up to /v1, asked in turn")
    model: str = Field("nvidia/llama-3.1-nemotron-70b-reward", description="the model's id at that address")
    attribute: str | None = Field(
        None, description="the named number that is the score; default: reward, the only one, or the 340B model's five"
    )
    system: Literal["fold", "refuse"] = Field(
        "fold", description="system messages: put before the user's next turn, or their rows are missing"
    )
    max_length: int = Field(4096, ge=1, description="tokens of prompt and answer that the model takes")
    too_long: Literal["missing", "send"] = Field(
        "missing", description="longer conversations: missing and not sent, or sent for the server to decide"
    )
    tokenizer: str | None = Field(
        None, description="a model folder or hub name whose tokenizer counts; default: 1 token for 4 bytes"
    )

    def variable_of_key(self) -> str:
        return KEY


class Nemotron(RemoteJudge):
    """Scores by a learned, remote reward."""

    name: ClassVar[str] = "nemotron"
    version: ClassVar[str] = "1"
    Config: ClassVar[type[JudgeConfig]] = NemotronConfig
    default_for: ClassVar[frozenset[str]] = frozenset({"reward", "judge"})
    why_default: ClassVar[str] = f"{KEY} is set"
    why_not_default: ClassVar[str] = f"{KEY} is not set"
    config: NemotronConfig

    def parameters(self) -> Mapping[str, Any]:
        """The model, where it is served, and which number of its answer is the score."""
        config = self.config
        return {"model": config.model, "base_url": sorted(config.base_url), "attribute": config.attribute}

    def given(self, item: Item) -> Any:
        """The messages as they are sent."""
        return _messages(item)

    def key(self) -> SecretStr | None:
        key = read_key(KEY)
        if key is None and HOSTED in self.config.base_url:
            raise UsageError(
                f"judge 'nemotron' needs a key: set {KEY} (made at build.nvidia.com), or name a self-hosted model by "
                "base_url in [judge.nemotron], or another judge: a reward run (alignkit train reward), FILE.py:function"
            )
        return key

    @classmethod
    def applies_to(cls, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether its key is set."""
        return bool(os.environ.get(KEY))

    def left_out(self, unsent: Mapping[int, Missing], num_items: int) -> None:
        _logger.warning(
            "nemotron: %d of %d conversations are not sent: %s",
            len(unsent),
            num_items,
            "; ".join(dict.fromkeys(answer.reason for answer in unsent.values())),
        )

    @cached_property
    def _count_tokens(self) -> Callable[[str], int]:
        if self.config.tokenizer is None:
            return lambda text: math.ceil(len(text.encode()) / _BYTES_A_TOKEN)
        from alignkit.plugin import find_model, load_tokenizer

        tokenizer: Any = load_tokenizer(find_model(self.config.tokenizer).folder)
        return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def unsendable(self, item: Item) -> str | None:
        if item.has_tools:
            return "the API knows no tools, calls of them or results"
        messages = _messages(item)
        roles = [message["role"] for message in messages]
        if any(message["role"] in ("system", "developer") for message in item.prompt):
            if self.config.system == "refuse":
                return "system messages are refused (system = fold would put them before the user's turn)"
            _say_once("nemotron: system messages are put before the user's next turn: the API knows no system role")
        if set(roles) - {"user", "assistant"} or roles[:1] != ["user"]:
            return "the API takes a user's turn first, then the assistant's and the user's only"
        texts = [message["content"] for message in messages]
        if (reason := unreadable(item)) is not None:
            return reason
        if self.config.too_long == "missing" and sum(map(self._count_tokens, texts)) > self.config.max_length:
            how = "counted by its tokenizer" if self.config.tokenizer else "estimated"
            return f"longer than the model's {self.config.max_length:,} tokens ({how}; too_long = missing)"
        return None

    def body(self, item: Item) -> bytes:
        return json.dumps({"model": self.config.model, "messages": _messages(item)}).encode()

    def read(self, body: Mapping[str, Any], text: str) -> Scored | Missing:
        named = read_attributes(body)
        wanted = self.config.attribute
        if wanted is None:
            value = named.get("reward", next(iter(named.values())) if len(named) == 1 else None)
            if value is None and named.keys() == _WEIGHTS.keys():
                value = sum(weight * named[name] for name, weight in _WEIGHTS.items())
        else:
            value = named.get(wanted)
        if value is None:
            return Missing(f"it answers {', '.join(named)}: name the one to take by attribute in [judge.nemotron]")
        return Scored(value, text)


def read_attributes(body: Mapping[str, Any]) -> dict[str, float]:
    """The named numbers of an answer: `name:number(,name:number)*` in the content, else in the log-probs.

    The message may be an object or a list of one, the content a text or a list of parts, and any other field null.

    Raises:
        ValueError: there is no such thing in it, a name comes twice, or a number is not finite.
    """
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise ValueError(f"an answer without choices: {_short(body)}")
    content = _content(choice.get("message"))
    if content.strip():
        found = [_named_number(part) for part in content.split(",")]
        pairs = [pair for pair in found if pair is not None]
        if len(pairs) != len(found):
            raise ValueError(f"an answer that is no score (is this a reward model?): {_short(content)}")
    else:
        logprobs = choice.get("logprobs")
        listed = logprobs.get("content") if isinstance(logprobs, dict) else None
        pairs = [_pair(entry) for entry in listed] if isinstance(listed, list) else []
    named = dict(pairs)
    if not pairs or len(named) != len(pairs) or not all(map(math.isfinite, named.values())):
        raise ValueError(f"an answer that is no score: {_short(body)}")
    return named


@hookimpl
def register_judges(register: Callable[[type[Judge]], None]) -> None:
    """Add the judge `nemotron`."""
    register(Nemotron)


@hookimpl
def register_presets(register: Callable[[type[Preset]], None]) -> None:
    """Add `alignkit init --paper`, whose judge and reward this is."""
    from alignkit_plugins.paper_preset import Paper

    register(Paper)


def _messages(item: Item) -> list[dict[str, str]]:
    """The conversation as it is sent: system messages stand before the user's next turn."""
    messages: list[dict[str, str]] = []
    system: list[str] = []
    for message in item.prompt:
        if message["role"] in ("system", "developer"):
            system.append(message["content"])
        elif message["role"] == "user" and system:
            messages.append({"role": "user", "content": "\n\n".join([*system, message["content"]])})
            system = []
        else:
            messages.append({"role": message["role"], "content": message["content"]})
    if system:
        messages.append({"role": "system", "content": "\n\n".join(system)})  # no user's turn follows: not sendable
    return [*messages, {"role": "assistant", "content": item.completion}]


def _content(message: Any) -> str:
    if isinstance(message, list):
        message = message[0] if message else None
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _named_number(part: str) -> tuple[str, float] | None:
    """Read "name: number", in time that grows with its length alone, whatever stands there."""
    name, _, number = (text.strip() for text in part.partition(":"))
    if _NAME.fullmatch(name) is None or _NUMBER.fullmatch(number) is None:
        return None
    return name, float(number)


def _pair(entry: Any) -> tuple[str, float]:
    if isinstance(entry, dict):
        name, value = entry.get("token"), entry.get("logprob")
        if isinstance(name, str) and isinstance(value, int | float) and not isinstance(value, bool):
            return name.strip().rstrip(":"), float(value)
    raise ValueError(f"log-probs that are no scores: {_short(entry)}")


def _short(value: Any) -> str:
    text = " ".join((value if isinstance(value, str) else json.dumps(value)).split())
    return text if len(text) <= 120 else f"{text[:117]}..."


_said: set[str] = set()


def _say_once(line: str) -> None:
    if line not in _said:
        _said.add(line)
        _logger.info(line)
