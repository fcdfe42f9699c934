"""How far a model is from another on its own answers, against plain logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model
from transformers import AutoModelForCausalLM

from alignkit.config.settings import ModelSection
from alignkit.data.reading.rows import Row
from alignkit.judging.answers import Answer, Answering, Generation
from alignkit.policy.load import load_policy
from alignkit.pretrained.names import find_model
from alignkit.tournaments.answer_kl import answers_kl


def plain_kl(ours: Path, theirs: Path, ids: list[int], num_answered: int) -> float:
    """Sum over the last tokens of sum_v p (log p - log q), one sequence at a time."""
    logprobs = []
    for folder in (ours, theirs):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            logprobs.append(model(torch.tensor([ids])).logits[0].double().log_softmax(-1))
    logp, logq = (each[-num_answered - 1 : -1] for each in logprobs)
    return float((logp.exp() * (logp - logq)).sum())


def test_it_is_the_plain_kl_of_the_answers_tokens(tmp_path: Path) -> None:
    ours, theirs = tiny_model(tmp_path / "ours"), tiny_model(tmp_path / "theirs", seed=1)
    answering = Answering(find_model(str(ours)), ModelSection(precision="fp32"), Generation())
    row = Row("a", ({"role": "user", "content": "Say 1."},), None, None, None, False, {})
    whole = Answer(row, "it is 1", 8, truncated=False)
    cut, empty = (replace(whole, row=replace(row, id=name), truncated=name == "cut") for name in ("cut", "empty"))
    empty = replace(empty, text=" ")
    other = load_policy(theirs, precision="fp32").eval()
    found = answers_kl(answering, other, [whole, cut, empty], most_tokens=100)
    prompt = answering.chat.prompt_ids(row.prompt)
    text = answering.chat.tokenizer("it is 1", add_special_tokens=False)["input_ids"]
    end = next(iter(answering.chat.end_ids))
    assert found.keys() == {"a", "cut"}  # nothing is said of an empty answer
    assert found["a"] == (pytest.approx(plain_kl(ours, theirs, [*prompt, *text, end], len(text) + 1), rel=1e-4), 8)
    assert found["cut"] == (pytest.approx(plain_kl(ours, theirs, [*prompt, *text], len(text)), rel=1e-4), 7)
    assert answers_kl(answering, other, [whole, cut], most_tokens=8).keys() == {"a"}
    same = answers_kl(answering, answering.policy, [whole], most_tokens=8)
    assert same["a"][0] == pytest.approx(0.0, abs=1e-6)
