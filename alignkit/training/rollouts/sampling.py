"""Draws completions for the prompts of a step and turns them into trees; scores them where a method wants rewards.

Each completion's seed is a hash of (run seed, purpose, step, row, k): the same step draws the same samples after a
resume. Shape letters: P prompts, G group, N completions, T scored tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignkit.data.chat.chat import Chat
from alignkit.data.reading.rows import Row
from alignkit.data.reading.split import derived_seed
from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import Tree, tree
from alignkit.distributed.fsdp import shard_and_pack
from alignkit.distributed.ranks import ALONE, World
from alignkit.rollouts.sampler import Completion, Request, Sampler
from alignkit.scoring.judge import Item
from alignkit.training.gradient.step import MicroBatch
from alignkit.training.lifecycle.deadlines import Deadlines


@dataclass(frozen=True)
class Group:
    """The completions drawn for one row's prompt, with the temperature of each."""

    row: Row
    prompt_ids: np.ndarray
    reference_length: int
    completions: tuple[Completion, ...]
    temperatures: tuple[float, ...]
    texts: tuple[str, ...]

    def items(self) -> list[Item]:
        """What a judge sees of each completion."""
        fields: Mapping[str, Any] = {**self.row.fields, "id": self.row.id}
        return [Item(self.row.prompt, text, fields) for text in self.texts]

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
    """Draw `len(temperatures)` completions for each row's prompt from the weights as they are now.

    Args:
        sync: False where the weights have not changed since the last draw.

    Raises:
        DeadlinePassed: handing over the weights, or drawing, took longer than it may.
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
    with deadlines.phase("generate"):
        drawn = sampler.generate(requests)
    return grouped(chat, rows, temperatures, drawn)


def grouped(
    chat: Chat, rows: Sequence[tuple[Row, Tree]], temperatures: Sequence[float], drawn: Sequence[Completion]
) -> list[Group]:
    """Give each row the completions drawn for it, which follow one another."""
    size = len(temperatures)
    groups = []
    for number, (row, row_tree) in enumerate(rows):
        own = tuple(drawn[number * size : (number + 1) * size])
        texts = tuple(text_of(chat, completion) for completion in own)
        groups.append(Group(row, row_tree.prompt.ids, row_tree.reference_length, own, tuple(temperatures), texts))
    return groups


def text_of(chat: Chat, completion: Completion) -> str:
    """Decode a completion without its end token."""
    ids = completion.ids.tolist()
    text: str = chat.tokenizer.decode(ids if completion.truncated else ids[:-1], skip_special_tokens=True)
    return text


def sample_micro_batches(
    groups: Sequence[Group], advantages_PG: np.ndarray, capacity: int, *, kept_P: np.ndarray, world: World = ALONE
) -> list[MicroBatch]:
    """Lay this rank's samples of the kept groups into rows; a sample whose advantage is nan is left out."""
    kept = [
        (group, np.flatnonzero(~np.isnan(advantages)), advantages)
        for group, advantages, is_kept in zip(groups, advantages_PG, kept_P, strict=True)
        if is_kept and not np.isnan(advantages).all()
    ]
    trees = [group.tree(which.tolist()) for group, which, _ in kept]
    rows, is_padding = shard_and_pack(trees, capacity, world)
    made = [_micro([kept[n] for n in numbers], [trees[n] for n in numbers]) for numbers in rows]
    return [replace(micro, is_padding=is_padding) for micro in made]


def counts_left_out(groups: Sequence[Group], advantages_PG: np.ndarray, kept_P: np.ndarray) -> dict[str, int]:
    """Count what the groups that are not kept would have had in the step, as the step's means divide by it."""
    trained = [
        [len(completion.ids) for completion, x in zip(group.completions, advantages, strict=True) if not np.isnan(x)]
        for group, advantages, is_kept in zip(groups, advantages_PG, kept_P, strict=True)
        if not is_kept
    ]
    num_groups = sum(bool(lengths) for lengths in trained)
    return {
        "tokens": sum(map(sum, trained)),
        "completions": sum(map(len, trained)),
        "pairs": num_groups,
        "groups": num_groups,
    }


def drop_truncated(advantages_PG: np.ndarray, groups: Sequence[Group]) -> np.ndarray:
    """Put nan for truncated completions: their siblings were compared with them, they are not trained on."""
    truncated_PG = np.array([[completion.truncated for completion in group.completions] for group in groups])
    return np.where(truncated_PG, np.nan, advantages_PG)


def unrewarded_micro_batch(groups: Sequence[Group]) -> MicroBatch:
    """Lay all samples of some prompts into one row, without advantages."""
    everyone = np.arange(len(groups[0].completions))
    kept = [(group, everyone, None) for group in groups]
    return _micro(kept, [group.tree(everyone.tolist()) for group in groups])


def _micro(kept: Sequence[tuple[Group, np.ndarray, np.ndarray | None]], trees: Sequence[Tree]) -> MicroBatch:
    behaviour = [group.completions[k].logprobs for group, which, _ in kept for k in which]
    temperature = [group.temperatures[k] for group, which, _ in kept for k in which]
    advantage = [advantages[k] for _, which, advantages in kept if advantages is not None for k in which]
    return MicroBatch(
        lay_out(trees),
        temperature_N=np.array(temperature, np.float32),
        sampler_logprob_T=np.concatenate(behaviour),
        advantage_N=np.array(advantage, np.float32) if advantage else None,
    )
