"""Which rows train and which validate."""

from __future__ import annotations

import hashlib

import numpy as np

from alignkit.errors import UsageError


def derived_seed(*parts: object) -> int:
    """Hash parts into a 63-bit seed, the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def held_rows(key_P: np.ndarray, split: str | None) -> np.ndarray:
    """Say which rows validate; rows with one key (one prompt) stay on one side.

    Args:
        key_P: int64 [P], a key for each row, as good as random.
        split: "first-N", a share of the prompts such as "0.05" (those of the least keys), or None for 5 % of them, at
            least 1 and at most 2,000.

    Returns:
        bool [P].

    Raises:
        UsageError: `split` is neither, or leaves no training rows.
    """
    if split is not None and split.startswith("first-") and split[6:].isdigit():
        is_held = np.isin(key_P, key_P[: int(split[6:])])
    else:
        try:
            share = 0.05 if split is None else float(split)
        except ValueError:
            raise UsageError(
                f"--split {split!r}: give first-N or a share such as 0.05, or a file of validation rows"
            ) from None
        if not 0 < share < 1:
            raise UsageError(f"--split {split}: a share lies between 0 and 1")
        distinct = np.unique(key_P)
        wanted = max(1, round(share * len(distinct)))
        is_held = np.isin(key_P, distinct[: min(wanted, 2000) if split is None else wanted])
    if is_held.all():
        if len(np.unique(key_P)) == 1:
            raise UsageError(
                f"no row is left to train on: a split holds back one prompt at least, and there is only one "
                f"({len(key_P)} rows): give rows of another prompt too, or validation rows of another by --split FILE"
            )
        raise UsageError(
            f"--split {split} leaves no training rows of {len(key_P)}; --split first-1 holds back one prompt"
        )
    return is_held
