"""The set as columns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from alignkit.audit.audit import audit
from alignkit.audit.pairs import read_pairs
from alignkit.data.reading.read import Source
from alignkit.data.reading.rows import to_row

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


def test_a_call_of_a_tool_is_an_answer() -> None:
    calls = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}]
    row = {
        "prompt": [{"role": "user", "content": "How warm is it?"}],
        "chosen": [{"role": "assistant", "content": None, "tool_calls": calls}],
        "rejected": [{"role": "assistant", "content": "Warm."}],
    }
    pairs = read_pairs([to_row(row, where="rows.jsonl, line 1")])
    assert pairs.is_pair_P.tolist() == [True]
    assert json.loads(pairs.chosen[0] or "") == {"name": "weather", "arguments": {"city": "Bern"}}


def test_rows_that_methods_skip_say_why() -> None:
    pair = {"prompt": "Why?", "chosen": "So.", "rejected": "Thus."}
    rows: list[dict[str, object]] = [
        pair,
        pair | {"rejected": "So."},
        pair | {"rejected": " "},
        pair | {"score_chosen": 1, "score_rejected": 1},
        pair | {"margin": 2},
        {"prompt": "Why?"},
        {"prompt": "Why?", "completion": "", "label": True},
    ]
    pairs = read_pairs(to_row(row, where=f"rows.jsonl, line {n}") for n, row in enumerate(rows, start=1))
    reasons = [None, "chosen equals rejected", "empty rejected answer", None, None, None, "empty labelled answer"]
    assert pairs.unusable == reasons
