"""Prompts with answers to other prompts: drawn evenly, never of the same prompt, the same in every run."""

from __future__ import annotations

import numpy as np
import pytest

from alignkit.data.trees.flat import FlatTrees
from alignkit.data.trees.mismatched import Mismatched, has_several_prompts
from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import tree
from alignkit.errors import InputError


def trees(prompts: str, *, length: int = 3) -> FlatTrees:
    """A tree for each letter, its prompt; its answer is its own number, `length` times."""
    ones = np.ones(length, bool)
    return FlatTrees.of(
        [tree(f"t{n}", np.full(4, ord(p)), [(np.full(length, n), ones)]) for n, p in enumerate(prompts)]
    )


def drawn(prompts: str, *, seed: int = 0) -> list[int]:
    made = trees(prompts)
    return [int(one.completions[0].ids[0]) for one in Mismatched(made, made, seed=seed, max_length=99)]


@pytest.mark.parametrize("prompts", ["ab", "aaab", "baaa", "abab", "abcabcaa", "aabbb", "abcdefgh"])
def test_an_answer_is_never_one_to_the_same_prompt(prompts: str) -> None:
    for seed in range(30):
        assert all(prompts[n] != prompts[other] for n, other in enumerate(drawn(prompts, seed=seed)))


def test_every_answer_to_another_prompt_is_equally_likely_and_the_seed_decides() -> None:
    prompts, num = "aabcc", 600
    counts = np.zeros((5, 5))
    for seed in range(num):
        counts[range(5), drawn(prompts, seed=seed)] += 1
    others = np.array([[p != q for q in prompts] for p in prompts])
    expected = others / others.sum(1, keepdims=True)
    # five standard deviations of a share of 600
    assert (np.abs(counts / num - expected) <= 5 * np.sqrt(expected * (1 - expected) / num)).all()
    assert drawn("abcdefgh", seed=1) == drawn("abcdefgh", seed=1) != drawn("abcdefgh", seed=2)


def test_a_tree_keeps_its_prompt_and_a_long_answer_is_cut() -> None:
    short, long = trees("ab", length=2), trees("cd", length=9)
    found = Mismatched(short, long, seed=0, max_length=10)
    assert [one.row_id for one in found] == ["t0", "t1"]
    assert [one.prompt.ids.tolist() for one in found] == [one.prompt.ids.tolist() for one in short]
    assert [len(one.completions[0]) for one in found] == [6, 6]
    assert found.lengths().tolist() == [len(one) for one in found] == [10, 10]
    pack = lay_out(found, [1])
    assert pack.ids_S.tolist() == found[1].prompt.ids.tolist() + found[1].completions[0].ids.tolist()
    assert pack.num_tokens_N.tolist() == [6] and pack.label_N is None


def test_rows_of_one_prompt_alone_are_refused() -> None:
    made = trees("aaa")
    assert not has_several_prompts(made) and has_several_prompts(trees("aab"))
    with pytest.raises(InputError, match="all training rows have the same prompt"):
        Mismatched(made, made, seed=0, max_length=99)
    assert len(Mismatched(made, trees("b"), seed=0, max_length=99)) == 3
    assert not list(Mismatched(trees(""), made, seed=0, max_length=99))
