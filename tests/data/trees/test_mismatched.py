"""Prompts with answers to other prompts: a step's own answers in other places, never to the same prompt."""

from __future__ import annotations

import numpy as np
import pytest

from alignkit.data.trees.flat import FlatTrees
from alignkit.data.trees.mismatched import Mismatched
from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import tree
from alignkit.errors import InputError


def trees(prompts: str, *, length: int = 3, first: int = 0) -> FlatTrees:
    """A tree for each letter, its prompt; its answer is its own number, counted from `first`, `length` times."""
    ones = np.ones(length, bool)
    return FlatTrees.of(
        [tree(f"t{n}", np.full(4, ord(p)), [(np.full(length, first + n), ones)]) for n, p in enumerate(prompts)]
    )


def exchanged(prompts: str, *steps: list[int], seed: int = 0) -> list[int]:
    """The number of each row's other answer, of all rows in one step unless steps are given."""
    numbers = [np.array(step) for step in steps or [range(len(prompts))]]
    found = Mismatched(trees(prompts), numbers, seed=seed, max_length=99)
    return [int(one.completions[0].ids[0]) for one in found]


@pytest.mark.parametrize("prompts", ["ab", "abab", "abcabc", "aabbcd", "abcdefgh", "aaabcd", "bbbaaa"])
def test_a_steps_answers_change_places_and_none_stays_with_its_prompt(prompts: str) -> None:
    found = exchanged(prompts)
    assert sorted(found) == list(range(len(prompts)))
    assert all(prompts[n] != prompts[other] for n, other in enumerate(found))


@pytest.mark.parametrize("prompts", ["aaab", "baaa", "aaaabb", "aaaaabbc"])
def test_a_prompt_of_most_rows_meets_all_other_answers_as_often_as_can_be(prompts: str) -> None:
    found = exchanged(prompts)
    assert all(prompts[n] != prompts[other] for n, other in enumerate(found))
    others = [n for n, prompt in enumerate(prompts) if prompt != "a"]
    counts = [sum(other == n for at, other in enumerate(found) if prompts[at] == "a") for n in others]
    assert max(counts) - min(counts) <= 1


def test_each_step_exchanges_its_own_rows_and_says_where_they_lie() -> None:
    steps = [[4, 0, 3], [2, 5, 1], [0, 1]]
    found = Mismatched(trees("abcdef"), [np.array(step) for step in steps], seed=0, max_length=99)
    assert found.step_ends.tolist() == [0, 3, 6, 8]
    for step, start, end in zip(steps, found.step_ends, found.step_ends[1:], strict=False):
        own = found[int(start) : int(end)]
        assert [one.row_id for one in own] == [f"t{n}" for n in step]
        answers = [int(one.completions[0].ids[0]) for one in own]
        assert sorted(answers) == sorted(step) and all(a != n for a, n in zip(answers, step, strict=True))


def test_a_step_of_one_prompt_draws_evenly_from_the_rest_of_the_data() -> None:
    counts, num = np.zeros(6), 600
    for seed in range(num):
        (found,) = exchanged("aabccd", [1], seed=seed)
        counts[found] += 1
    assert counts[:2].tolist() == [0, 0]
    assert (np.abs(counts[2:] / num - 0.25) <= 5 * np.sqrt(0.25 * 0.75 / num)).all()
    assert exchanged("aabccd", [1], seed=1) == exchanged("aabccd", [1], seed=1)
    drawn = exchanged("abcdefgh", *[[n] for n in range(8)] * 3)
    assert drawn[:8] != drawn[8:16]  # each step by itself


def test_a_tree_keeps_its_prompt_and_a_long_answer_is_cut() -> None:
    long = trees("ab", length=9)
    found = Mismatched(long, [np.array([1, 0])], seed=0, max_length=10)
    assert [(one.row_id, one.prompt.ids[0], one.completions[0].ids.tolist()) for one in found] == [
        ("t1", ord("b"), [0] * 6),
        ("t0", ord("a"), [1] * 6),
    ]
    assert found.lengths().tolist() == [len(one) for one in found] == [10, 10]
    pack = lay_out(found, [1])
    assert pack.ids_S.tolist() == [ord("a")] * 4 + [1] * 6
    assert pack.num_tokens_N.tolist() == [6] and pack.label_N is None


def test_rows_of_one_prompt_alone_get_others_answers_or_are_refused() -> None:
    made = trees("aaa")
    with pytest.raises(InputError, match="all training rows have the same prompt"):
        Mismatched(made, [np.arange(3)], seed=0, max_length=99)
    given = Mismatched(made, [np.arange(3)], seed=0, max_length=99, others=trees("abb", length=5, first=10))
    assert {int(one.completions[0].ids[0]) for one in given} <= {11, 12}
    assert given.lengths().tolist() == [len(one) for one in given] == [9, 9, 9]
    assert not list(Mismatched(trees(""), [np.arange(0)], seed=0, max_length=99, others=made))
