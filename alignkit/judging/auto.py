"""`--judge auto`: which judge decides, and why."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit.data.rows import Row
from alignkit.errors import AlignkitError, UsageError
from alignkit.registry import registry
from alignkit.scoring.judge import Item, Scored
from alignkit.scoring.specs import make_judge


def choose_judge(rows: Sequence[Row], settings: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[str, str]:
    """Return (SPEC, why): the rows' own rules, else Nemotron where it answers, else the newest reward run.

    Args:
        settings: options of judges by name, from [judge.NAME].

    Raises:
        UsageError: none of them is there, with the commands that would work.
    """
    judges = registry().names("judge")
    if "rules" in judges and all(row.fields.get("rules") for row in rows):
        return "rules", "the rows carry rules that anyone can check"
    tried = []
    if "nemotron" in judges and os.environ.get("NVIDIA_API_KEY"):
        problem = _probe("nemotron", rows[0], settings)
        if problem is None:
            return "nemotron", "NVIDIA_API_KEY is set and a one-row probe answered"
        tried.append(f"nemotron does not answer ({problem})")
    reward_run = newest_run(method="reward")
    if reward_run is not None:
        return str(reward_run), "it is the newest reward model trained here"
    raise UsageError(
        "no judge: the rows carry no rules, "
        + (tried[0] if tried else "NVIDIA_API_KEY is not set or its judge is not installed")
        + ", and there is no reward run; what would work: alignkit train reward --data PAIRS, then judge again; "
        "--judge FOLDER (a sequence-classification model); --judge FILE.py:function"
    )


def newest_run(*, method: str | None = None) -> Path | None:
    """Return the newest finished run under runs/, of a method or of any that makes a policy."""
    found = []
    for file in Path("runs").glob("*/run.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        finished = (file.parent / "model" / "config.json").exists()
        if finished and (content["method"] == method if method else content["method"] != "reward"):
            found.append((file.stat().st_mtime, file.parent))
    return max(found)[1] if found else None


def _probe(spec: str, row: Row, settings: Mapping[str, Mapping[str, Any]] | None) -> str | None:
    """Ask for one score, through the ledger; why there is none, or None."""
    item = Item(row.prompt, row.reference or "Hello.", row.fields)
    named = make_judge(spec, settings)
    try:
        named.judge.ready([row.fields])
        answer = named.score([item])[0]
    except AlignkitError as error:
        return str(error)
    finally:
        named.judge.close()
    return None if isinstance(answer, Scored) else answer.reason
