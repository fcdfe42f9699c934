"""Answers as the policy's body sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_models import tiny_model, tiny_tokenizer

from alignkit.audit.body import MAX_ANSWER, read_body
from alignkit.audit.pairs import read_pairs
from alignkit.audit.surface import compare
from alignkit.data.reading.rows import to_row
from alignkit.errors import InputError
from alignkit.progress import Silent

PAIRS = [("Why?", "A stone.", "No"), ("Who is it, and what for?", "Well, well.", "é"), ("a", "b" * 400, "c")]


def test_states_are_averaged_over_each_answer_behind_its_prompt(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tiny_model(tmp_path)
    pairs = read_pairs(
        to_row({"prompt": prompt, "chosen": chosen, "rejected": rejected}, where=f"rows.jsonl, line {number}")
        for number, (prompt, chosen, rejected) in enumerate(PAIRS)
    )
    compared = read_body(pairs, compare(pairs), tmp_path, Silent())
    body = AutoModelForCausalLM.from_pretrained(tmp_path).base_model.eval()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)

    def mean(prompt: str, answer: str) -> np.ndarray:
        before, own = (tokenizer(text).input_ids for text in (prompt + "\n\n", answer))
        own = own[:MAX_ANSWER]
        with torch.no_grad():
            states = body(input_ids=torch.tensor([before + own]))[0][0]
        return states[len(before) :].mean(0).numpy()

    expected = np.stack([mean(prompt, chosen) - mean(prompt, rejected) for prompt, chosen, rejected in PAIRS])
    means_PE = compared.means_PE
    assert means_PE is not None
    # 48 of at most 64 components are all there are: a rotation, which keeps every product
    np.testing.assert_allclose(means_PE @ means_PE.T, expected @ expected.T, atol=1e-4, rtol=1e-4)
    assert np.abs(np.diag(expected @ expected.T)).min() > 0.1


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    pairs = read_pairs([to_row({"prompt": "1", "chosen": "a", "rejected": "b"}, where="rows.jsonl, line 1")])
    with pytest.raises(InputError, match="no model in it"):
        read_body(pairs, compare(pairs), tmp_path, Silent())
