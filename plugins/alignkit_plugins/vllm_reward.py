"""`vllm-reward`: a reward model computed by vLLM, here or by a server of `vllm serve MODEL --runner pooling`.

The score is the head's raw value at the last token (reward_folder.py lists the kinds of heads). vLLM's own default is a
sigmoid of it, which gives 1.0 to every good answer. Token ids are sent, because vLLM would add a second
beginning-of-text token to a text. Over HTTP the server's tokenizer renders the messages, unless `tokenizer` names a
folder here.

Nemotron-70B-Reward-HF is a plain causal model. Its reward is the logit of token 0 after the conversation
(logit_of_token = 0): vLLM takes that token's row of the LM head as a head of one label.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

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
from alignkit_plugins.reward_folder import RewardFolder, conversation

if TYPE_CHECKING:
    from pydantic import SecretStr

KEY = "VLLM_API_KEY"
_MAX_LENGTH = 4096  # tokens
_AT_ONCE = 256  # conversations between two parts that the ledger keeps
_KEPT = 2000  # characters of an answer that the ledger keeps; a head at every token answers with more
_PROBE = Item([{"role": "user", "content": "Name a river."}], "The Rhine.")


class VLLMRewardConfig(ClientConfig):
    """Which model, and where it computes."""

    model: str | None = Field(
        None,
        description="a reward run's name or folder, a folder or hub name; with base_url the id that the server gives "
        "it; default: the newest reward run",
    )
    base_url: list[str] = Field([], description="addresses of vLLM servers, asked in turn; default: in this process")
    tokenizer: str | None = Field(
        None, description="with base_url: a model folder here whose template and tokenizer make the ids that are sent"
    )
    logit_of_token: int | None = Field(
        None, ge=0, description="a causal model whose reward is this token's logit (0 for Nemotron-70B-Reward-HF)"
    )
    max_length: int | None = Field(
        None, ge=1, description="in this process: longest conversation, in tokens; default: the model's, at most 4,096"
    )
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="in this process: bf16, fp32, or what suits")
    gpu_memory: float = Field(0.4, gt=0, le=1, description="share of the GPU's memory that the engine may take")
    requests_per_minute: float = Field(60_000.0, gt=0, description="to each address")
    max_in_flight: int = Field(32, ge=1, le=256, description="requests under way at once")

    def variable_of_key(self) -> str:
        return KEY

    @field_validator("base_url")
    @classmethod
    def _roots(cls, urls: list[str]) -> list[str]:
        return [url.removesuffix("/v1") for url in urls]


class VLLMReward(RemoteJudge):
    """Scores by a learned reward; scores of different prompts are not comparable."""

    name: ClassVar[str] = "vllm-reward"
    version: ClassVar[str] = "1"
    Config: ClassVar[type[JudgeConfig]] = VLLMRewardConfig
    paid: ClassVar[bool] = False
    paths: ClassVar[tuple[str, ...]] = ("/classify", "/pooling")  # two-layer heads have the second only
    models: ClassVar[str] = "/v1/models"
    config: VLLMRewardConfig

    def ask(self, items: Sequence[Item]) -> Iterator[Mapping[int, Scored | Missing]]:
        """Yield scores as they come, from a server or from this process. An item too long for the model is missing.

        Raises:
            UsageError: vLLM is not installed, or there is no model.
            RunStopped: every server refuses for good.
        """
        return super().ask(items) if self.config.base_url else self._compute(items)

    def parameters(self) -> Mapping[str, Any]:
        """Return the model (its files' hash, or its id and addresses), which value is the score, and the precision."""
        config = self.config
        if config.base_url:
            where = {"model": config.model, "base_url": sorted(config.base_url)}
            return where | (
                {} if self._tokenizer is None else {"tokenizer_sha256": self._tokenizer.tokenizer_fingerprint}
            )
        return {
            "model_sha256": self._folder.fingerprint,
            "logit_of_token": config.logit_of_token,
            "precision": self._dtype,
        }

    def given(self, item: Item) -> Any:
        """Return the conversation, whose last turn is the completion."""
        return conversation(item)

    def ready(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Check that vLLM and a reward model are there, or that the server answers with one score.

        Raises:
            UsageError, InputError: they are not; the message says what to do.
        """
        if not self.config.base_url:
            from alignkit_plugins.vllm_engine import require_vllm

            require_vllm("judge 'vllm-reward'", otherwise="name a server by base_url, or score by --judge FOLDER")
            self._folder.head(logit_of_token=self.config.logit_of_token)
            _ = self._folder.chat
            return
        super().ready(rows)
        answer = self.score([_PROBE])[0]
        if isinstance(answer, Missing):
            raise UsageError(
                f"judge 'vllm-reward' gets no score from {self.config.base_url[0]}: {answer.reason}; serve a reward "
                "model of one label: vllm serve MODEL --runner pooling"
            )

    def close(self) -> None:
        super().close()
        if "_engine" in vars(self):
            self._engine.close()
            del self._engine

    def key(self) -> SecretStr | None:
        if self.config.model is None:
            raise UsageError(
                "judge 'vllm-reward' needs to know which model the server has: set model in [judge.vllm-reward]"
            )
        return read_key(KEY)

    def unsendable(self, item: Item) -> str | None:
        if self.remote and item.has_tools and self._tokenizer is None:
            return "it has tools, which are sent as token ids alone: name the model's tokenizer in [judge.vllm-reward]"
        return super().unsendable(item)

    def body(self, item: Item) -> bytes:
        body: dict[str, Any] = {"model": self.config.model, "use_activation": False}
        if self._tokenizer is not None:
            return json.dumps(body | {"input": [_ids(self._tokenizer, item)]}).encode()
        turns = [{"role": m["role"], "content": m["content"]} for m in item.prompt]
        messages = [*turns, {"role": "assistant", "content": item.completion}]
        return json.dumps(
            body | {"messages": messages, "add_generation_prompt": False, "add_special_tokens": False}
        ).encode()

    def read(self, body: Mapping[str, Any], text: str) -> Scored | Missing:
        """Return the raw value in an answer of /classify, or of /pooling, which gives a list or one value per token."""
        data = body.get("data")
        first = data[0] if isinstance(data, list) and data and isinstance(data[0], dict) else {}
        values = first.get("probs", first.get("data"))
        while isinstance(values, list) and values and isinstance(values[-1], list):
            values = values[-1]  # the last token's
        if not isinstance(values, list) or not values:
            raise ValueError("an answer without a reward")
        if len(values) > 1:
            return Missing(f"the model has {len(values)} labels, a reward model has one")
        if isinstance(values[0], bool) or not isinstance(values[0], int | float) or not math.isfinite(values[0]):
            raise ValueError(f"a reward that is no finite number: {values[0]!r}")
        return Scored(float(values[0]), text if len(text) <= _KEPT else None)

    @cached_property
    def _folder(self) -> RewardFolder:
        return RewardFolder(self.config.model, judge=self.name)

    @cached_property
    def _tokenizer(self) -> RewardFolder | None:
        return None if self.config.tokenizer is None else RewardFolder(self.config.tokenizer, judge=self.name)

    @cached_property
    def _dtype(self) -> str:
        from alignkit.plugin import autocast_type, pick_device

        return "float32" if autocast_type(self.config.precision, pick_device()) is None else "bfloat16"

    @cached_property
    def _max_length(self) -> int:
        """Most tokens of a conversation. The cache of a longer engine would hold fewer conversations at once."""
        return min(self._folder.max_length, self.config.max_length or _MAX_LENGTH)

    def _compute(self, items: Sequence[Item]) -> Iterator[dict[int, Scored | Missing]]:
        """Score in this process, `_AT_ONCE` at a time; vLLM batches rows of unequal length itself.

        Answers to one prompt go together: vLLM then computes the prompt's whole blocks once.
        """
        first: dict[str, int] = {}
        places = [first.setdefault(repr(item.prompt), number) for number, item in enumerate(items)]
        order = sorted(range(len(items)), key=lambda number: places[number])
        for at in range(0, len(order), _AT_ONCE):
            ids = {number: _ids(self._folder, items[number]) for number in order[at : at + _AT_ONCE]}
            fitting = [number for number, of in ids.items() if len(of) <= self._max_length]
            part: dict[int, Scored | Missing] = {
                number: Missing(f"{len(of):,} tokens are more than the model takes ({self._max_length:,})")
                for number, of in ids.items()
                if len(of) > self._max_length
            }
            for number, value in zip(fitting, self._engine.rewards([ids[n] for n in fitting]), strict=True):
                part[number] = Scored(value) if math.isfinite(value) else Missing(f"the model's reward is {value}")
            yield part

    @cached_property
    def _engine(self) -> Any:
        from alignkit_plugins.vllm_pooling import PoolingEngine

        token = self.config.logit_of_token
        return PoolingEngine(
            self._folder,
            self._folder.head(logit_of_token=token),
            logit_of_token=token,
            dtype=self._dtype,
            max_length=self._max_length,
            gpu_memory=self.config.gpu_memory,
        )


@hookimpl
def register_judges(register: Callable[[type[Judge]], None]) -> None:
    """Add the judge `vllm-reward`."""
    register(VLLMReward)


def _ids(folder: RewardFolder, item: Item) -> list[int]:
    """Token ids of a whole conversation.

    Raises:
        InputError: its template refuses the conversation.
    """
    return [*folder.prompt_ids(item.prompt), *folder.answer_ids(item)]
