"""Which rows an optimizer step sees: a pure function of (seed, epoch, step), whatever the packing or the resume."""

from __future__ import annotations

import hashlib

import numpy as np


def steps_per_epoch(num_rows: int, rows_per_step: int) -> int:
    """Optimizer steps of one pass over the rows; the last may see fewer rows."""
    return -(-num_rows // rows_per_step)


def step_rows(num_rows: int, rows_per_step: int, *, seed: int, step: int) -> np.ndarray:
    """Return the row numbers of an optimizer step (from 1), int64 [<= rows_per_step].

    Each epoch is its own permutation of the rows, drawn from (seed, epoch).
    """
    epoch, place = divmod(step - 1, steps_per_epoch(num_rows, rows_per_step))
    order = np.random.Generator(np.random.Philox(key=(seed << 64) + epoch)).permutation(num_rows)
    return order[place * rows_per_step : (place + 1) * rows_per_step]


def derived_seed(*parts: object) -> int:
    """Hash parts into a 63-bit seed, the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def split_rows(ids: list[str], split: str | None, *, seed: int = 0) -> tuple[list[int], list[int]]:
    """Split row numbers into training and validation by the row's prompt key.

    Args:
        ids: a key for each row; rows with one key (one prompt) stay on one side.
        split: "first-N", a share such as "0.05", or None for 5 % of the prompts, at least 1 and at most 2,000.

    Returns:
        row numbers for training, row numbers for validation, each in order.

    Raises:
        UsageError: `split` is neither, or leaves no training rows.
    """
    from alignkit.errors import UsageError

    if split is not None and split.startswith("first-") and split[6:].isdigit():
        held = {ids[number] for number in range(min(int(split[6:]), len(ids)))}
    else:
        try:
            share = 0.05 if split is None else float(split)
        except ValueError:
            raise UsageError(
                f"--split {split!r}: give first-N or a share such as 0.05, or a file of validation rows"
            ) from None
        if not 0 < share < 1:
            raise UsageError(f"--split {split}: a share lies between 0 and 1")
        distinct = list(dict.fromkeys(ids))
        wanted = max(1, round(share * len(distinct)))
        wanted = min(wanted, 2000) if split is None else wanted
        held = set(sorted(distinct, key=lambda key: derived_seed("split", seed, key))[:wanted])
    training = [number for number, key in enumerate(ids) if key not in held]
    validation = [number for number, key in enumerate(ids) if key in held]
    if not training:
        raise UsageError(
            f"--split {split or '0.05'} leaves no training rows of {len(ids)}; give more rows or a smaller split"
        )
    return training, validation
