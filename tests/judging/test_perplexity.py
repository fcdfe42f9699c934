"""Perplexity on references: against transformers' own logits, text by text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignkit.config.settings import ModelSection
from alignkit.data.reading.rows import to_row
from alignkit.judging.answers import Answer, Answering, Generation
from alignkit.judging.evaluation import evaluate_answers, lines
from alignkit.pretrained.names import find_model

REFERENCES = ["The Rhine.", "5", "Zwölf große Flüsse, and many small ones. " * 4, "  ", None]


def test_perplexity_is_micro_with_the_end_token_and_bytes_are_those_of_the_texts(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, seed=5)
    rows = [
        to_row({"id": str(n), "prompt": f"Ask {n}", "reference": text}, where="") for n, text in enumerate(REFERENCES)
    ]
    answering = Answering(find_model(str(folder)), ModelSection(precision="fp32"), Generation())
    found = answering.perplexity(rows)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total, count, means = 0.0, 0, []
    for number, text in enumerate(REFERENCES[:3]):
        asked = [{"role": "user", "content": f"Ask {number}"}]
        whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": text}], tokenize=False)
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        answer = whole[len(prompt) :].partition("<|im_end|>")
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        own = tokenizer("".join(answer[:2]), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logprob_TV = model(torch.tensor([ids + own])).logits[0, len(ids) - 1 : -1].double().log_softmax(-1)
        nats = -float(logprob_TV.gather(-1, torch.tensor(own)[:, None]).sum())
        total, count = total + nats, count + len(own)
        means.append(math.exp(nats / len(own)))
        assert found.by_row[str(number)] == (pytest.approx(nats, rel=1e-4), len(own), False)
    assert found.num_tokens == count and len(found.by_row) == 3
    assert found.perplexity == pytest.approx(math.exp(total / count), rel=1e-4)
    num_bytes = sum(len(str(text).encode()) for text in REFERENCES[:3])
    assert found.bits_per_byte == pytest.approx(total / math.log(2) / num_bytes, rel=1e-4)
    assert abs(found.perplexity - sum(means) / 3) > 1e-3  # not a mean of the texts'
    assert math.isnan(answering.perplexity(rows[3:]).perplexity)  # nan: nothing to read


def test_references_that_do_not_fit_are_counted_and_said(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, max_position_embeddings=96)
    asked = [("Short?", "yes"), ("Long?", "word " * 40), ("What of " + "this " * 30, "no")]
    rows = [to_row({"id": str(n), "prompt": p, "reference": r}, where="") for n, (p, r) in enumerate(asked)]
    predicted = Answering(find_model(str(folder)), ModelSection(precision="fp32"), Generation()).perplexity(rows)
    assert (predicted.num_cut, predicted.num_left_out) == (1, 1)
    assert {id_: cut for id_, (_, _, cut) in predicted.by_row.items()} == {"0": False, "1": True}
    assert (
        predicted.missing()
        == "1 references cut at the end of their row, 1 left out, whose prompts leave no place for them"
    )
    figures = evaluate_answers([Answer(rows[0], "yes", 4, False)], predicted, seed=0)
    assert (figures["perplexity_cut"], figures["perplexity_left_out"]) == (1, 1)
    assert any("(1 references cut at the end of their row, 1 left out" in line for line in lines(figures))
