"""Validation's exact KL on some of the rows: at most so many tokens, the same rows each time, and their own mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import random_pairs
from tiny_models import tiny_model

from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import Tree
from alignkit.methods import MethodConfig
from alignkit.policy.load import load_policy
from alignkit.training.gradient.models import Models
from alignkit.training.gradient.reference import Reference, exact_kl
from alignkit.training.rollouts.eval_loss import draw_trees, mean_kl


def scored(trees: list[Tree], numbers: list[int]) -> int:
    return sum(len(completion) for n in numbers for completion in trees[n].completions)


def test_trees_are_drawn_up_to_a_number_of_scored_tokens_and_the_same_each_time() -> None:
    trees = random_pairs(60)
    drawn = draw_trees(trees, 200, seed=3)
    assert drawn == sorted(set(drawn)) == draw_trees(trees, 200, seed=3) != draw_trees(trees, 200, seed=4)
    assert 200 - 24 < scored(trees, drawn) <= 200  # a tree here has at most 22 scored tokens
    assert draw_trees(trees, scored(trees, list(range(60))), seed=3) == list(range(60))
    assert len(draw_trees(trees, 1, seed=3)) == 1


@pytest.mark.parametrize("num_tokens", [40, 10_000])
def test_the_mean_is_that_of_the_drawn_trees_tokens(num_tokens: int, tmp_path: Path) -> None:
    policy, other = (load_policy(tiny_model(tmp_path / str(n), seed=n), precision="fp32").eval() for n in (0, 1))
    reference = Reference(policy, frozen=other)
    trees = random_pairs(8)
    sampler: Any = None
    models = Models(policy, reference, sampler, micro_batch_tokens=50)
    kl_T = [exact_kl(policy, reference, lay_out([trees[n]])) for n in draw_trees(trees, num_tokens, seed=7)]
    found = mean_kl(models, trees, MethodConfig(seed=7, validation_kl_tokens=num_tokens))
    assert found == pytest.approx(float(np.mean(torch.cat(kl_T).numpy())), rel=1e-5)
    assert (len(kl_T) == 8) == (num_tokens == 10_000)
