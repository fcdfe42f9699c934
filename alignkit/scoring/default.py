"""Which judge is taken where none is named, in training (`--reward`) and in judging (`--judge auto`).

A judge class says by itself whether it may be taken (`default_for`) and whether it can score the rows (`applies_to`).
Rules that anyone can check come first, then judges of a service, then models on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from alignkit.registry import registry
from alignkit.scoring.judge import Judge

Role = Literal["reward", "judge"]


def default_judges(rows: Sequence[Mapping[str, Any]], *, role: Role) -> list[type[Judge]]:
    """Return the judges that may be taken and can score all rows, the preferred one first.

    Args:
        rows: every column of each row.
    """
    return [cls for cls in _candidates(role) if cls.applies_to(rows)]


def why_none(rows: Sequence[Mapping[str, Any]], *, role: Role) -> list[str]:
    """Return what the others lack, a clause for each judge that may be taken and cannot score all rows."""
    return [cls.why_not_default for cls in _candidates(role) if cls.why_not_default and not cls.applies_to(rows)]


def _candidates(role: Role) -> list[type[Judge]]:
    classes = [registry().find("judge", name) for name in registry().names("judge")]
    judges = [cls for cls in classes if issubclass(cls, Judge) and role in cls.default_for]
    return sorted(judges, key=lambda cls: (not cls.verifiable, not cls.paid, cls.name))
