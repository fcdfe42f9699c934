"""Which rows a step sees, and which rows validate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.data.reading.split import held_rows
from alignkit.errors import UsageError
from alignkit.training.loop.source import step_rows, steps_per_epoch


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_sees_every_row_once(num_rows: int, per_step: int, seed: int, epoch: int) -> None:
    steps = steps_per_epoch(num_rows, per_step)
    seen = [int(n) for s in range(steps) for n in step_rows(num_rows, per_step, seed=seed, step=1 + epoch * steps + s)]
    assert sorted(seen) == list(range(num_rows))


def test_order_changes_with_epoch_and_seed_and_not_otherwise() -> None:
    first, again = (step_rows(50, 50, seed=1, step=1).tolist() for _ in range(2))
    assert first == again
    assert first != step_rows(50, 50, seed=1, step=2).tolist() != step_rows(50, 50, seed=2, step=1).tolist()


def test_split_keeps_a_prompt_on_one_side_and_holds_back_five_percent() -> None:
    keys = np.random.default_rng(0).permutation(100).repeat(2)
    is_held = held_rows(keys, None)
    assert is_held.sum() == 10 and set(keys[is_held]) == set(range(5))
    assert not set(keys[is_held]) & set(keys[~is_held])
    assert np.flatnonzero(held_rows(keys, "first-20")).tolist() == list(range(20))
    assert held_rows(keys, "first-1").sum() == 2
    assert held_rows(np.array([7, 3]), None).tolist() == [False, True]
    with pytest.raises(UsageError, match="first-N or a share"):
        held_rows(keys, "half")


def test_a_split_that_leaves_nothing_says_what_works() -> None:
    for keys in ([7], [7, 7, 7]):
        for split in (None, "first-1", "0.5"):
            with pytest.raises(UsageError, match=r"only one .*rows of another prompt too, or .* --split FILE"):
                held_rows(np.array(keys), split)
    with pytest.raises(UsageError, match="--split first-9 leaves no training rows of 3; --split first-1 holds back"):
        held_rows(np.array([7, 3, 7]), "first-9")
    assert held_rows(np.array([7, 3, 7]), "first-1").tolist() == [True, False, True]
