"""A judge that counts."""

from __future__ import annotations

from typing import Any


def letters(completion: str, row: dict[str, Any]) -> float:
    return float(sum(map(ord, completion)) % 97)
