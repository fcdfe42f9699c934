"""What is said of judged prompts that a run was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from alignkit.data.reading.read import read_rows
from alignkit.data.reading.same_data import data_hashes
from alignkit.judging.caveats import judge_gave_reward, seen_in_training
from alignkit.scoring.specs import make_judge


def write(path: Path, rows: list[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("early", [None, 10])
def test_ids_that_two_files_share_do_not_hide_that_prompts_were_trained_on(tmp_path: Path, early: int | None) -> None:
    train, held = (
        write(tmp_path / f"{name}.jsonl", [{"id": f"r{n}", "prompt": f"{name} {n}", "chosen": "a"} for n in range(4)])
        for name in ("train", "held")
    )
    ids = {"ids": [f"r{n}" for n in range(4)]}
    record = {
        "method": "sft",
        "fingerprints": {},
        "versions": {},
        "rewards": [],
        "parent": None,
        "model": "m",
        "data_files": data_hashes(train, columns={}, split=held),
        "rows": {"training": ids, "validation": ids},
        "config": {
            "model": {},
            "data": {"data": train, "split": held},
            "train": {"sft": {"early_stopping_steps": early}},
        },
    }
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert seen_in_training(read_rows(train), tmp_path, name="x")[:1] == [
        "4 of 4 judged prompts are in the training set of x"
    ]
    also = ["4 of 4 judged prompts also chose the checkpoint of x (early stopping)"] if early else []
    assert seen_in_training(read_rows(held), tmp_path, name="x") == also


def test_a_judge_is_known_as_the_reward_that_a_run_had_to_rename(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def score(completion, row): return 1\n")
    ids = {"ids": ["r"]}
    rewards = [{"name": f"{file}.score", "judge": "function", "plain_name": "score"} for file in "ab"]
    record = {
        "method": "grpo",
        "fingerprints": {},
        "versions": {},
        "rewards": rewards,
        "parent": None,
        "model": "m",
        "rows": {"training": ids, "validation": ids},
        "config": {"model": {}, "data": {"data": "d"}, "train": {"grpo": {}}},
    }
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert "was also the training reward" in judge_gave_reward(tmp_path, make_judge(f"{tmp_path / 'a.py'}:score"))[0]
