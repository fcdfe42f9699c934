"""Prompts with answers to other prompts: what tells how far a policy went from its reference whatever was asked.

Each tree keeps its prompt and gets the first completion of a tree with another prompt, every one of those equally
likely, drawn by the seed once for a run: whatever the order of the rows, the packing and the number of ranks, a row's
other answer is the same, and the reference's log-probs of it can be known before the first step. A tree is made when it
is asked for.
"""

from __future__ import annotations

import hashlib

import numpy as np

from alignkit.data.reading.split import derived_seed
from alignkit.data.trees.flat import FlatTrees, Lazy
from alignkit.data.trees.trees import Segment, Tree
from alignkit.errors import InputError


class Mismatched(Lazy[Tree]):
    """Trees of one completion, each the answer to another prompt.

    Args:
        trees: whose prompts they have.
        answers: whose first completions they have.
        seed: the run's.
        max_length: tokens of prompt and answer; a longer answer is cut, and gets no forged end. A prompt is shorter.

    Raises:
        InputError: all answers are to one prompt, and a tree has it.
    """

    def __init__(self, trees: FlatTrees, answers: FlatTrees, *, seed: int, max_length: int) -> None:
        self._trees, self._answers, self._max_length = trees, answers, max_length
        self._other_P = _other_answers(_prompts(trees), _prompts(answers), seed)

    def __len__(self) -> int:
        return len(self._trees)

    def lengths(self) -> np.ndarray:
        """Tokens of each tree, int64 [trees]."""
        trees, answers = self._trees, self._answers
        prompt_P = trees.segment_lengths[trees.segment_ends[:-1]]
        answer_P = answers.segment_lengths[answers.segment_ends[:-1] + 1][self._other_P]
        return np.minimum(prompt_P + answer_P, self._max_length)

    def _make(self, number: int) -> Tree:
        one, answer = self._trees[number], self._answers[int(self._other_P[number])].completions[0]
        room = self._max_length - len(one.prompt)
        return Tree.unchecked(one.row_id, (one.prompt, Segment(answer.ids[:room], answer.scored[:room])), 0, ())


def has_several_prompts(trees: FlatTrees) -> bool:
    """Whether any tree's prompt is another than the first's."""
    return len(np.unique(_prompts(trees))) > 1


def _prompts(trees: FlatTrees) -> np.ndarray:
    """A number for each tree's prompt, uint64 [trees]; equal token ids have the same."""
    starts = trees.token_ends[trees.segment_ends[:-1]].tolist()
    ends = trees.token_ends[trees.segment_ends[:-1] + 1].tolist()
    digests = (
        hashlib.blake2b(trees.flat_ids[start:end].tobytes(), digest_size=8).digest()
        for start, end in zip(starts, ends, strict=True)
    )
    return np.frombuffer(b"".join(digests), np.uint64)


def _other_answers(prompt_P: np.ndarray, prompt_A: np.ndarray, seed: int) -> np.ndarray:
    """Draw for each prompt the number of an answer to another one, int64 [P]."""
    order_A = np.argsort(prompt_A, kind="stable")
    first_P, last_P = (np.searchsorted(prompt_A[order_A], prompt_P, side) for side in ("left", "right"))
    num_others_P = len(prompt_A) - (last_P - first_P)
    if len(prompt_P) and not num_others_P.min():
        raise InputError(
            "all training rows have the same prompt: the KL to the reference is estimated from each prompt with an "
            "answer to another one; add rows with other prompts"
        )
    random = np.random.Generator(np.random.Philox(key=derived_seed(seed, "mismatched")))
    # In the order of prompts a prompt's own answers adjoin: all behind them, and on from the start, are the others.
    return order_A[(last_P + random.integers(num_others_P)) % len(prompt_A)]
