"""Bounds of a group-sequential plan, against published tables and simulation."""

import numpy as np
import pytest

from alignkit.statistics.sequential import bounds_of, stopping

FIFTHS = (0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.mark.parametrize(
    ("shares", "alpha", "published"),
    [
        (FIFTHS, 0.05, (4.8769, 3.3569, 2.6803, 2.2898, 2.0310)),  # Lan and DeMets' tables, as R's gsDesign prints them
        ((0.5, 1.0), 0.05, (2.9626, 1.9686)),
        ((1.0,), 0.04, (2.0537,)),
    ],
)
def test_bounds_are_those_of_the_tables(shares: tuple[float, ...], alpha: float, published: tuple[float, ...]) -> None:
    assert bounds_of(shares, alpha) == pytest.approx(published, abs=2e-4)


def test_equal_models_cross_a_bound_as_often_as_was_allowed() -> None:
    chances = stopping(FIFTHS, bounds_of(FIFTHS, 0.04))
    assert sum(chances) == pytest.approx(0.04, abs=1e-6) and chances == sorted(chances)


def test_the_chances_of_stopping_are_those_of_simulated_looks() -> None:
    bounds, drift = bounds_of(FIFTHS, 0.04), 2.9
    rng = np.random.default_rng(0)
    steps = rng.standard_normal((200_000, 5)) * np.sqrt(0.2) + drift * 0.2
    z = np.cumsum(steps, axis=1) / np.sqrt(FIFTHS)
    crossed = np.abs(z) > bounds
    first = np.where(crossed.any(1), crossed.argmax(1), 5)
    seen = np.bincount(first, minlength=6)[:5] / len(z)
    assert stopping(FIFTHS, bounds, drift) == pytest.approx(seen, abs=0.004)
