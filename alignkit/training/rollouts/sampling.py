"""Samples completions for the prompts of a step, as groups that a judge can read and a tree can be made of.

Each completion's seed is a hash of (run seed, purpose, step, row, k): the same step draws the same samples after a
resume. Shape letters: P prompts, G group, N completions, T scored tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignkit.data.chat.chat import Chat
from alignkit.data.reading.rows import Row
from alignkit.data.reading.split import derived_seed
from alignkit.data.trees.trees import Tree, tree
from alignkit.progress import phase
from alignkit.rollouts.sampler import Completion, Request, Sampler
from alignkit.scoring.judge import Item
from alignkit.training.lifecycle.deadlines import Deadlines


@dataclass(frozen=True)
class Group:
    """The completions sampled for one row's prompt, with the temperature of each."""

    row: Row
    prompt_ids: np.ndarray
    reference_length: int
    completions: tuple[Completion, ...]
    temperatures: tuple[float, ...]
    texts: tuple[str, ...]

    def items(self) -> list[Item]:
        """What a judge sees of each completion."""
        fields: Mapping[str, Any] = {**self.row.fields, "id": self.row.id}
        return [Item(self.row.prompt, text, fields, name=self.row.said) for text in self.texts]

    def tree(self, kept: Sequence[int]) -> Tree:
        """The tree of some of the completions; every token of a completion is scored."""
        parts = [(self.completions[k].ids, np.ones(len(self.completions[k].ids), bool)) for k in kept]
        return tree(self.row.id, self.prompt_ids, parts, reference_length=self.reference_length)


def sample(
    sampler: Sampler,
    chat: Chat,
    rows: Sequence[tuple[Row, Tree]],
    *,
    temperatures: Sequence[float],
    max_new_tokens: int,
    seed: int,
    step: int,
    purpose: str,
    deadlines: Deadlines,
    top_p: float = 1.0,
    sync: bool = True,
) -> list[Group]:
    """Sample `len(temperatures)` completions for each row's prompt from the weights as they are now.

    Args:
        sync: False where the weights have not changed since the last call.

    Raises:
        DeadlinePassed: handing over the weights, or sampling, took longer than it may.
    """
    if sync:
        with deadlines.phase("sync"):
            sampler.sync()
    requests = [
        Request(
            prompt_ids=row_tree.prompt.ids.tolist(),
            temperature=temperature,
            seed=derived_seed(seed, purpose, step, row.id, k),
            max_new_tokens=max_new_tokens,
            top_p=top_p,
        )
        for row, row_tree in rows
        for k, temperature in enumerate(temperatures)
    ]
    with deadlines.phase("generate"), phase("sampling", len(requests)):
        completions = sampler.generate(requests)
    return grouped(chat, rows, temperatures, completions)


def grouped(
    chat: Chat, rows: Sequence[tuple[Row, Tree]], temperatures: Sequence[float], completions: Sequence[Completion]
) -> list[Group]:
    """Give each row its `len(temperatures)` completions, which follow one another."""
    size = len(temperatures)
    groups = []
    for number, (row, row_tree) in enumerate(rows):
        own = tuple(completions[number * size : (number + 1) * size])
        texts = tuple(text_of(chat, completion) for completion in own)
        groups.append(Group(row, row_tree.prompt.ids, row_tree.reference_length, own, tuple(temperatures), texts))
    return groups


def text_of(chat: Chat, completion: Completion) -> str:
    """Decode a completion without its end token."""
    ids = completion.ids.tolist()  # a truncated one has no end token
    return chat.said(ids if completion.truncated else ids[:-1])
