"""`llm`: a chat model compares two answers to a prompt, over any OpenAI-compatible endpoint.

It is asked twice per prompt, each answer once in the first place (`alignkit.judging.scores` combines the two). It says
why and then [[A]], [[B]] or [[C]] for a tie; an answer that does not end with such a mark is missing, never a tie: a
mark further up may be quoted, or be one that the judge took back. So is an answer that was cut off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field

from alignkit.plugin import (
    ClientConfig,
    Item,
    Judge,
    JudgeConfig,
    Missing,
    RemoteJudge,
    Scored,
    UsageError,
    hookimpl,
    read_key,
)

if TYPE_CHECKING:
    from pydantic import SecretStr

NVIDIA_KEY = "NVIDIA_API_KEY"
_VALUES = {"A": 1.0, "B": 0.0, "C": 0.5}
_MARK = re.compile(r"\[\[([ABC])\]\][\s.!*_`\"')\]}]*\Z")
_THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", re.S)
INSTRUCTIONS = (
    "You compare two answers to the last message of a conversation. {criteria} Do not prefer an answer for its place "
    "or its length. Give your reasons in a few sentences, then end with [[A]] if answer A is better, [[B]] if answer B "
    "is better, or [[C]] if neither is."
)


class LLMConfig(ClientConfig):
    """Which model compares, where, and by what."""

    base_url: list[str] = Field([], description="addresses of the service, up to /v1, asked in turn")
    model: str = Field("", description="the model's id at that address")
    key_variable: str | None = Field(
        None, description=f"environment variable that holds the key; default: {NVIDIA_KEY} for nvidia.com, else no key"
    )
    criteria: str = Field(
        "The better answer is the one that is correct, does what was asked, and wastes no words.",
        description="what makes an answer better",
    )
    tie_rule: Literal["agree", "lean"] = Field(
        "agree", description="agree: a win needs both orders; lean: the side ahead over both orders wins"
    )
    temperature: float = Field(0.0, ge=0, description="sampling temperature of the judge")
    max_new_tokens: int = Field(512, ge=16, le=131_072, description="longest reasoning, in tokens")
    requests_per_minute: float = Field(60.0, gt=0, description="to each address")

    def variable_of_key(self) -> str | None:
        """The one that is named, else NVIDIA's where every address is theirs."""
        if self.key_variable is not None:
            return self.key_variable
        return NVIDIA_KEY if self.base_url and all(_is_nvidia(url) for url in self.base_url) else None


class LLMJudge(RemoteJudge):
    """Compares two completions by a chat model."""

    name: ClassVar[str] = "llm"
    version: ClassVar[str] = "2"
    Config: ClassVar[type[JudgeConfig]] = LLMConfig
    pairwise: ClassVar[bool] = True
    config: LLMConfig

    def parameters(self) -> Mapping[str, Any]:
        """The model, where it is served, its instructions and how it is sampled."""
        names = {"model", "criteria", "temperature", "max_new_tokens"}
        return self.config.model_dump(include=names) | {"base_url": sorted(self.config.base_url)}

    def given(self, item: Item) -> Any:
        """The messages as they are sent."""
        return self._messages(item)

    def key(self) -> SecretStr | None:
        config = self.config
        if not config.base_url or not config.model:
            raise UsageError(
                "judge 'llm' needs to know whom to ask: set base_url and model in [judge.llm], for example base_url = "
                '["http://localhost:8000/v1"]'
            )
        variable = config.variable_of_key()
        key = read_key(variable) if variable is not None else None
        if variable is not None and key is None:
            raise UsageError(f"judge 'llm' needs a key: set {variable}, or name another variable by key_variable")
        return key

    def body(self, item: Item) -> bytes:
        config = self.config
        body = {"model": config.model, "messages": self._messages(item), "temperature": config.temperature}
        return json.dumps(body | {"max_tokens": config.max_new_tokens}).encode()

    def _messages(self, item: Item) -> list[dict[str, str]]:
        if item.rival is None:
            raise UsageError("judge 'llm' compares two answers, it cannot score one: name it by --judge, not --reward")
        turns = [f"<{role}>\n{text}\n</{role}>" for role, text in item.turns]
        parts = ["<conversation>", *turns, "</conversation>", f"<answer A>\n{item.completion}\n</answer A>"]
        parts.append(f"<answer B>\n{item.rival}\n</answer B>")
        return [
            {"role": "system", "content": INSTRUCTIONS.format(criteria=self.config.criteria)},
            {"role": "user", "content": "\n".join(parts)},
        ]

    def read(self, body: Mapping[str, Any], text: str) -> Scored | Missing:
        """One answer -> 1, 0 or 0.5 by the mark at its end; Missing where there is none, or it was cut off."""
        choices = body.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            raise ValueError("an answer that is no chat completion")
        content = message.get("content")
        if isinstance(choice, dict) and choice.get("finish_reason") == "length":
            most = self.config.max_new_tokens
            return Missing(f"the judge's answer was cut off at {most} tokens: raise judge.llm.max_new_tokens")
        mark = _MARK.search(_THOUGHTS.sub("", content)) if isinstance(content, str) else None
        if mark is None:
            said = " ".join(str(content).split())
            return Missing(f"the judge named no winner at its end: {said[-120:]!r}")
        return Scored(_VALUES[mark[1]], text)


@hookimpl
def register_judges(register: Callable[[type[Judge]], None]) -> None:
    """Add the judge `llm`."""
    register(LLMJudge)


def _is_nvidia(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host == "nvidia.com" or host.endswith(".nvidia.com")
