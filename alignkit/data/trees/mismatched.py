"""Prompts with answers to other prompts: what tells how far a policy went from its reference whatever was asked.

Within each optimizer step the answers change places, so that each prompt has an answer to another one. Rewards and KL
of a step are then of the same answers, and what an answer has under any prompt falls out of their difference: of 164
short answers in steps of 16, on a model that hardly read its prompts, its standard deviation was 0.12 nats, and 5.9
with answers from anywhere in the data. Which step has which rows follows from the seed, so that all of them are known
before the first step, and the reference's log-probs of them. A tree is made when it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from alignkit.data.reading.split import derived_seed
from alignkit.data.trees.flat import FlatTrees, Lazy
from alignkit.data.trees.trees import Segment, Tree
from alignkit.errors import InputError


class Mismatched(Lazy[Tree]):
    """Trees of one completion, each the answer to another prompt, step after step.

    A prompt that more than half of a step's rows have meets some answers several times. Rows of a step with one prompt
    alone get answers from `others`, drawn by the seed.

    Args:
        trees: whose prompts and first completions they have.
        steps: numbers of the trees in each step.
        others: trees with other answers; default: `trees`.
        seed: the run's.
        max_length: tokens of prompt and answer; a longer answer is cut, and gets no forged end. A prompt is shorter.

    Raises:
        InputError: there is no answer to another prompt.
    """

    def __init__(
        self,
        trees: FlatTrees,
        steps: Iterable[np.ndarray],
        *,
        seed: int,
        max_length: int,
        others: FlatTrees | None = None,
    ) -> None:
        self._trees, self._others, self._max_length = trees, trees if others is None else others, max_length
        prompt_P = _prompts(trees)
        prompt_A = prompt_P if others is None else _prompts(others)
        order_A = np.argsort(prompt_A, kind="stable")
        tree_K: list[np.ndarray] = [np.zeros(0, np.int64)]
        answer_K, is_other_K = [np.zeros(0, np.int64)], [np.zeros(0, bool)]
        for step, numbers in enumerate(steps, start=1):
            places = _exchanged(prompt_P[numbers])
            if places is None:
                drawn = _drawn(prompt_P[numbers], prompt_A[order_A], derived_seed(seed, "mismatched", step))
            tree_K.append(numbers)
            answer_K.append(order_A[drawn] if places is None else numbers[places])
            is_other_K.append(np.full(len(numbers), places is None))
        self.step_ends = np.cumsum([len(numbers) for numbers in tree_K])
        """Where each step's trees begin, and where the last ones end, int64 [steps + 1]."""
        self._tree_K, self._answer_K, self._is_other_K = map(np.concatenate, (tree_K, answer_K, is_other_K))

    def __len__(self) -> int:
        return len(self._tree_K)

    def lengths(self) -> np.ndarray:
        """Tokens of each tree, int64 [trees]."""
        trees, others = self._trees, self._others
        prompt_K = trees.segment_lengths[trees.segment_ends[self._tree_K]]
        own_K, other_K = self._answer_K * ~self._is_other_K, self._answer_K * self._is_other_K
        answer_K = np.where(
            self._is_other_K,
            others.segment_lengths[others.segment_ends[other_K] + 1],
            trees.segment_lengths[trees.segment_ends[own_K] + 1],
        )
        return np.minimum(prompt_K + answer_K, self._max_length)

    def _make(self, number: int) -> Tree:
        one = self._trees[int(self._tree_K[number])]
        source = self._others if self._is_other_K[number] else self._trees
        answer, room = source[int(self._answer_K[number])].completions[0], self._max_length - len(one.prompt)
        return Tree.unchecked(one.row_id, (one.prompt, Segment(answer.ids[:room], answer.scored[:room])), 0, ())


def _prompts(trees: FlatTrees) -> np.ndarray:
    """A number for each tree's prompt, uint64 [trees]; equal token ids have the same."""
    starts = trees.token_ends[trees.segment_ends[:-1]].tolist()
    ends = trees.token_ends[trees.segment_ends[:-1] + 1].tolist()
    digests = (
        hashlib.blake2b(trees.flat_ids[start:end].tobytes(), digest_size=8).digest()
        for start, end in zip(starts, ends, strict=True)
    )
    return np.frombuffer(b"".join(digests), np.uint64)


def _exchanged(prompt_N: np.ndarray) -> np.ndarray | None:
    """Place of each row's other answer among the rows of a step, int64 [N]; None where all have one prompt.

    In the order of prompts those of one prompt adjoin; all rows take the answer as many places on as the commonest
    prompt has rows, which is behind their own prompt's. Where that goes around to their own again, only others are
    counted.
    """
    order_N = np.argsort(prompt_N, kind="stable")
    sorted_N = prompt_N[order_N]
    first_N, last_N = (np.searchsorted(sorted_N, sorted_N, side) for side in ("left", "right"))
    num_N, total = last_N - first_N, len(prompt_N)
    if num_N.max(initial=0) == total:
        return None
    on_N = np.arange(total) - first_N + num_N.max() - num_N  # counted from the last of the own prompt's
    places = np.empty(total, np.int64)
    places[order_N] = order_N[(last_N + on_N % (total - num_N)) % total]
    return places


def _drawn(prompt_N: np.ndarray, prompt_A: np.ndarray, seed: int) -> np.ndarray:
    """Draw for each prompt the place of an answer to another one, every one equally likely, int64 [N].

    Args:
        prompt_A: the answers' prompts, in order.
    """
    first_N, last_N = (np.searchsorted(prompt_A, prompt_N, side) for side in ("left", "right"))
    num_others_N = len(prompt_A) - (last_N - first_N)
    if not num_others_N.min(initial=1):
        raise InputError(
            "all training rows have the same prompt: the KL to the reference is estimated from each prompt with an "
            "answer to another one; add rows with other prompts"
        )
    random = np.random.Generator(np.random.Philox(key=seed))
    # A prompt's own answers adjoin: all behind them, and on from the start, are the others.
    places: np.ndarray = (last_N + random.integers(num_others_N)) % max(1, len(prompt_A))
    return places
