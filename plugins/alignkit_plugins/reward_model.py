"""`reward-model`: a sequence-classification folder of one label scores completions, through transformers.

The score is the raw value of the head at the last token of the conversation as the template renders it, the same
place where `alignkit train reward` reads it. Also named by a run or a folder: `--reward runs/reward-1`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from alignkit.plugin import InputError, Item, Judge, JudgeConfig, Missing, Scored, hookimpl, unreadable
from alignkit_plugins.reward_folder import RewardFolder, conversation

if TYPE_CHECKING:
    from alignkit.plugin import Policy, Tree

_ROW_TOKENS = 4096


class RewardModelConfig(JudgeConfig):
    """Which model, and how it computes."""

    model: str | None = Field(
        None, description="a reward run's name or folder, or such a folder; default: the newest reward run"
    )
    precision: str = Field(
        "auto", pattern="^(auto|bf16|fp32)$", description="fp32, bf16 autocast, or what suits the device"
    )


class RewardModel(Judge):
    """Scores by a learned reward; scores of different prompts are not comparable."""

    name: ClassVar[str] = "reward-model"
    version: ClassVar[str] = "1"
    Config: ClassVar[type[JudgeConfig]] = RewardModelConfig
    default_for: ClassVar[frozenset[str]] = frozenset({"judge"})
    why_default: ClassVar[str] = "it is the newest reward model trained here"
    why_not_default: ClassVar[str] = "there is no reward run"
    config: RewardModelConfig

    @classmethod
    def applies_to(cls, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a reward run was finished here."""
        return _newest() is not None

    @classmethod
    def default_spec(cls) -> str:
        """The newest reward run."""
        return str(_newest() or cls.name)

    def ready(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Check that the folder is a reward model with a chat template.

        Raises:
            AlignkitError: it is not, with the ways out.
        """
        head = self._folder.head()
        if head != "sequence":
            raise InputError(
                f"{self._folder.source.folder}: transformers has no {self._folder.architectures[0]}; score with "
                "--judge vllm-reward"
            )
        _ = self._folder.chat

    def parameters(self) -> Mapping[str, Any]:
        """The precision and the hash of the model's folder: weights, tokenizer, template and settings."""
        return {"precision": self.config.precision, "model_sha256": self._folder.fingerprint}

    def given(self, item: Item) -> Any:
        """The conversation, the completion its last turn."""
        return conversation(item)

    def score(self, items: Sequence[Item]) -> list[Scored | Missing]:
        """Score items; completions of one prompt share its computation. What is no valid Unicode is missing."""
        import torch

        from alignkit.plugin import lay_out, pack

        answers: dict[int, Scored | Missing] = {}
        groups: dict[str, list[int]] = {}
        for number, item in enumerate(items):
            if (reason := unreadable(item)) is not None:
                answers[number] = Missing(reason)
            else:
                groups.setdefault(repr([dict(message) for message in item.prompt]), []).append(number)
        members = list(groups.values())
        trees = [self._tree([items[n] for n in numbers]) for numbers in members]
        with torch.no_grad():
            for row in pack(trees, _ROW_TOKENS):
                value_N = self._policy(lay_out([trees[n] for n in row])).value_N
                assert value_N is not None
                order = [number for n in row for number in members[n]]
                answers |= {number: Scored(value) for number, value in zip(order, value_N.tolist(), strict=True)}
        return [answers[number] for number in range(len(items))]

    def _tree(self, items: Sequence[Item]) -> Tree:
        import numpy as np

        from alignkit.plugin import tree

        answers = [np.array(self._folder.answer_ids(item), np.int32) for item in items]
        prompt = np.array(self._folder.prompt_ids(items[0].prompt), np.int32)
        return tree("scored", prompt, [(ids, np.ones(len(ids), bool)) for ids in answers])

    @cached_property
    def _folder(self) -> RewardFolder:
        return RewardFolder(self.config.model, judge=self.name)

    @cached_property
    def _policy(self) -> Policy:
        from alignkit.plugin import load_policy, refuse_ids_without_rows

        folder = self._folder.source.folder
        policy = load_policy(folder, precision=self.config.precision, scalar_head=True).eval()
        refuse_ids_without_rows(self._folder.chat, policy.num_embedded, folder)
        return policy


def _newest() -> Path | None:
    from alignkit.plugin import newest_run

    return newest_run(method="reward")


@hookimpl
def register_judges(register: Callable[[type[Judge]], None]) -> None:
    register(RewardModel)
