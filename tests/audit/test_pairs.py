"""The set as columns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from alignkit.audit.audit import audit
from alignkit.audit.pairs import read_pairs
from alignkit.data.reading.read import Source

ROWS = [
    {"id": "a", "prompt": "Why?", "chosen": "Because.", "rejected": "No.", "source": "one"},
    {"id": "b", "prompt": "Why?", "chosen": "So.", "rejected": "Thus.", "score_chosen": 3, "score_rejected": 3},
    {"id": "c", "prompt": "Who?", "chosen": "I.", "rejected": "I."},
    {"id": "d", "prompt": "Who?", "completion": "You.", "label": False},
]


def written(path: Path) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return str(path)


def test_rows_of_every_kind_have_their_place_in_the_columns(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl")
    pairs = read_pairs(Source(file).rows())
    assert pairs.ids == ["a", "b", "c", "d"]
    assert pairs.places[1] == f"{file}, line 2"
    assert pairs.sources == ["one", file, file, file]
    assert pairs.is_pair_P.tolist() == [True, True, False, False]  # equal answers are no pair
    assert pairs.is_preference_P.tolist() == [True, False, False, False]
    assert pairs.label_P.tolist() == [-1, -1, -1, 0]
    assert pairs.prompt_P.number_P.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(pairs.scores_P2[:2], [[np.nan, np.nan], [3, 3]])


def test_the_audit_counts_rows_by_source(tmp_path: Path) -> None:
    found = audit(written(tmp_path / "rows.jsonl"))
    assert [(s.rows, s.pairs, s.ties, s.labelled, s.others) for s in found.sources] == [
        (1, 1, 0, 0, 0),
        (3, 1, 1, 1, 1),
    ]
