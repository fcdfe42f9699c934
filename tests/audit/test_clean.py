"""The cleaned set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from places import REAL_ROWS, lines_of

from alignkit.api import data_audit
from alignkit.audit.audit import audit
from alignkit.data.reading.read import Source
from alignkit.errors import UsageError


def write_planted(path: Path, *, seed: int) -> set[str]:
    """Write the real rows without scores, one pair in ten swapped; every third line ends with a carriage return too."""
    rng = np.random.default_rng(seed)
    flipped = set()
    with open(path, "wb") as file:
        for number, row in enumerate(lines_of(REAL_ROWS)):
            row = {key: row[key] for key in ("id", "prompt", "chosen", "rejected", "source")}
            if rng.random() < 0.1:
                flipped.add(row["id"])
                row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
            file.write(json.dumps(row, ensure_ascii=number % 2 == 0).encode() + (b" \r\n", b"\n", b"\n")[number % 3])
    return flipped


def test_an_audit_of_a_cleaned_set_finds_no_likely_flip(tmp_path: Path) -> None:
    flipped = write_planted(tmp_path / "rows.jsonl", seed=3)
    before = audit(str(tmp_path / "rows.jsonl"), clean_to=tmp_path / "clean.jsonl", list_to=tmp_path / "list.jsonl")
    assert before.flips is not None
    assert before.flips.likely > 20
    after = audit(str(tmp_path / "clean.jsonl"))
    assert after.flips is not None
    assert after.flips.likely == 0
    assert after.texts is not None
    assert [part.taken_out for part in after.texts] == [0] * len(after.texts)

    removed = [json.loads(line) for line in (tmp_path / "clean.removed.jsonl").read_bytes().splitlines()]
    kept = (tmp_path / "clean.jsonl").read_bytes().splitlines(keepends=True)
    lines = (tmp_path / "rows.jsonl").read_bytes().splitlines(keepends=True)
    assert len(removed) + len(kept) == len(lines)
    rest = iter(lines)
    assert all(line in rest for line in kept)  # as they were, in their order
    likely = [row["id"] in flipped for row in removed if row["reason"].startswith("probably stands the wrong way")]
    assert len(likely) > 20
    assert np.mean(likely) > 0.5
    for row in removed:
        number = int(row["place"].rpartition(" ")[2])
        assert json.loads(lines[number - 1]) == row["row"]
        assert row["row"]["id"] == row["id"]
        assert row["reason"]

    listed = [json.loads(line) for line in (tmp_path / "list.jsonl").read_text().splitlines()]
    assert [pair["id"] for pair in listed] == [pair.id for pair in before.flips.listed]
    assert listed[0].keys() == {"id", "place", "source", "probability", "reason", "prompt", "chosen", "rejected"}


def test_the_set_itself_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "Why?", "chosen": "Because.", "rejected": "No."}\n')
    with pytest.raises(UsageError, match="read from this file"):
        data_audit(data=str(file), clean_to=file)
    with pytest.raises(UsageError, match="name a file that ends"):
        data_audit(data=str(file), clean_to=tmp_path / "clean.parquet")
    assert len(list(Source(str(file)).rows())) == 1
