"""How often a pair of models was looked at: RUN/verdicts/looks.jsonl, a line a look.

A look is one set of prompts, answers and judge. Judging the same again gives the same numbers and is no further look;
other prompts, another seed, other sampling or another judge is one, and each is a further chance of a false alarm.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from alignkit.errors import InputError, RunStopped

FILE = "looks.jsonl"


def count_look(run: Path, *, vs: str, look: str) -> int:
    """Record a look at (`run`, `vs`) unless it is known, and return its number, from 1.

    Args:
        run: the judged run's folder.
        vs: what it is compared with.
        look: fingerprint of prompts, generation and judge.

    Raises:
        InputError: the table cannot be read.
        RunStopped: the disk refuses.
    """
    path = run / "verdicts" / FILE
    known = _known(path, vs)
    if look in known:
        return known.index(look) + 1
    line = {"vs": vs, "look": look, "created": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        path.parent.mkdir(exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise RunStopped(f"{path}: the look cannot be counted: {error.strerror}; make room") from error
    return len(known) + 1


def _known(path: Path, vs: str) -> list[str]:
    if not path.exists():
        return []
    looks = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text)
            if line["vs"] == vs:
                looks.append(str(line["look"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}, line {number}: not a counted look; remove this line") from error
    return looks
