"""`reward-model`: a sequence-classification folder of one label scores completions, through transformers.

The score is the raw value of the head at the last token of the conversation as the template renders it, the same
place where `alignkit train reward` reads it. Also named by a run or a folder: `--reward runs/reward-1`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from alignkit import hookimpl
from alignkit.errors import InputError, UsageError
from alignkit.scoring.judge import Item, Judge, JudgeConfig, Missing, Scored

if TYPE_CHECKING:
    from alignkit.data.chat import Chat
    from alignkit.data.trees import Tree
    from alignkit.policy.policy import Policy

_ROW_TOKENS = 4096


class RewardModelConfig(JudgeConfig):
    """Which model, and how it computes."""

    model: str | None = Field(None, description="a reward run's name or folder, or a sequence-classification folder")
    precision: str = Field(
        "auto", pattern="^(auto|bf16|fp32)$", description="fp32, bf16 autocast, or what suits the device"
    )


class RewardModel(Judge):
    """Scores by a learned reward; scores of different prompts are not comparable."""

    name: ClassVar[str] = "reward-model"
    version: ClassVar[str] = "1"
    Config: ClassVar[type[JudgeConfig]] = RewardModelConfig

    def ready(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._source()

    def parameters(self) -> Mapping[str, Any]:
        """The precision and the hash of the model's folder: weights, tokenizer, template and settings."""
        return {"precision": self.config.model_dump()["precision"], "model_sha256": self._fingerprint}

    def given(self, item: Item) -> Any:
        """The conversation, the completion its last turn."""
        return {"prompt": [[m["role"], m["content"]] for m in item.prompt], "completion": item.completion}

    def score(self, items: Sequence[Item]) -> list[Scored | Missing]:
        """Score items; completions of one prompt share its computation."""
        import torch

        from alignkit.data.packs import lay_out, pack

        groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
        for number, item in enumerate(items):
            groups.setdefault(tuple((m["role"], m["content"]) for m in item.prompt), []).append(number)
        members = list(groups.values())
        trees = [self._tree([items[n] for n in numbers]) for numbers in members]
        values: dict[int, float] = {}
        with torch.no_grad():
            for row in pack(trees, _ROW_TOKENS):
                value_N = self._policy(lay_out([trees[n] for n in row])).value_N
                assert value_N is not None
                order = [number for n in row for number in members[n]]
                values |= dict(zip(order, value_N.tolist(), strict=True))
        return [Scored(values[number]) for number in range(len(items))]

    def _tree(self, items: Sequence[Item]) -> Tree:
        import numpy as np

        from alignkit.data.trees import tree

        prompt = np.array(self._chat.prompt_ids(items[0].prompt), np.int32)
        completions = []
        for item in items:
            answer = self._chat.answer(item.prompt, [{"role": "assistant", "content": item.completion}])
            ids = self._chat.encoder.ids(answer)
            completions.append((ids, np.ones(len(ids), bool)))
        return tree("scored", prompt, completions)

    def _source(self) -> Any:
        from alignkit.policy.names import find_model

        assert isinstance(self.config, RewardModelConfig)
        if self.config.model is None:
            raise UsageError(
                "judge 'reward-model' needs a model: name a run or folder, or set [judge.reward-model] model"
            )
        source = find_model(self.config.model)
        architectures = _architectures(source.folder)
        if not any(name.endswith("ForSequenceClassification") for name in architectures):
            raise InputError(
                f"{source.folder}: {', '.join(architectures) or 'this'} is no reward model (a sequence classification "
                "of one label); make one with: alignkit train reward --data PAIRS"
            )
        return source

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file in sorted(self._source().folder.iterdir()):
            if file.suffix in (".safetensors", ".json", ".jinja", ".txt", ".model"):
                with open(file, "rb") as opened:
                    digest.update(f"{file.name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\0".encode())
        return digest.hexdigest()

    @cached_property
    def _chat(self) -> Chat:
        from alignkit.config import ModelSection
        from alignkit.policy.chat_settings import make_chat

        return make_chat(self._source(), ModelSection())

    @cached_property
    def _policy(self) -> Policy:
        from alignkit.policy.load import load_policy

        assert isinstance(self.config, RewardModelConfig)
        return load_policy(self._source().folder, precision=self.config.precision, scalar_head=True).eval()


def _architectures(folder: Any) -> list[str]:
    import json

    return list(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or [])


@hookimpl
def register_judges(register: Callable[[type[Judge]], None]) -> None:
    register(RewardModel)
