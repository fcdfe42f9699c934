"""What is said of judged prompts that a run was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from alignkit.data.reading.read import read_rows
from alignkit.data.reading.same_data import data_hashes
from alignkit.judging.caveats import judge_gave_reward, judge_is_kin, seen_in_training
from alignkit.pretrained.names import ModelSource
from alignkit.scoring.judge import Judge
from alignkit.scoring.ledger import judge_sha256
from alignkit.scoring.specs import NamedJudge, make_judge


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
    record = _grpo_record([{"name": f"{file}.score", "judge": "function", "plain_name": "score"} for file in "ab"])
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert "was also the training reward" in judge_gave_reward(tmp_path, make_judge(f"{tmp_path / 'a.py'}:score"))[0]


@pytest.mark.parametrize(
    ("precision", "model", "is_same"), [("auto", "one", True), ("fp32", "one", True), ("auto", "two", False)]
)
def test_another_reward_model_is_another_judge(precision: str, model: str, is_same: bool, tmp_path: Path) -> None:
    class Learned(Judge):
        name, version = "reward-model", "1"

        def parameters(self) -> dict[str, Any]:
            return {"precision": "auto", "model_sha256": "one"}

        def score(self, items: Any) -> Any:
            raise AssertionError("nothing is scored here")

    gave = {"precision": precision, "model_sha256": model}
    record = _grpo_record([{"name": "reward-1", "judge": "reward-model"}])
    record["fingerprints"] = {"reward reward-1": judge_sha256("reward-model", "1", gave)}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert bool(judge_gave_reward(tmp_path, NamedJudge("judge", Learned()))) is is_same


@pytest.mark.parametrize(
    ("judge", "ours", "theirs", "said"),
    [
        ("Qwen/Qwen2.5-72B-Instruct", "hub/Qwen3-4B", "SmolLM2-135M-Instruct", "is of the family of hub/Qwen3-4B"),
        ("meta/llama-3.3-nemotron-super-49b", "Meta-Llama-3-8B-Instruct", "Llama-3.2-1B", "both models are of one"),
        ("Qwen/Qwen2.5-72B-Instruct", "Meta-Llama-3-8B-Instruct", "SmolLM2-135M-Instruct", None),
        (None, "Qwen3-4B", "Qwen3-4B", None),  # a rule has no model
    ],
)
def test_a_judge_of_the_models_own_family_is_said(judge: str | None, ours: str, theirs: str, said: str | None) -> None:
    named = NamedJudge("judge", cast(Judge, SimpleNamespace(parameters=lambda: {"model": judge})))
    found = judge_is_kin(ModelSource(ours, Path(ours)), ModelSource(theirs, Path(theirs)), named)
    assert (said is None and found == []) or (said is not None and said in found[0])


def _grpo_record(rewards: list[dict[str, str]]) -> dict[str, Any]:
    ids = {"ids": ["r"]}
    return {
        "method": "grpo",
        "fingerprints": {},
        "versions": {},
        "rewards": rewards,
        "parent": None,
        "model": "m",
        "rows": {"training": ids, "validation": ids},
        "config": {"model": {}, "data": {"data": "d"}, "train": {"grpo": {}}},
    }
