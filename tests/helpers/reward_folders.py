"""Small random reward models of every kind of head, and what transformers says that they score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tiny_models import tiny_tokenizer
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

HIDDEN = 64


def reward_folder(folder: Path, kind: str, *, head: str = "sequence", labels: int = 1, bos: bool = False) -> Path:
    """Write a random reward model with the tiny tokenizer.

    Args:
        kind: an architecture, such as "qwen2".
        head: as `reward_folder.Head` of the plugin.
        bos: the template writes a beginning-of-text token, and so does the tokenizer where it is asked to.
    """
    torch.manual_seed(sum(map(ord, kind + head)))
    config = CONFIG_MAPPING[kind](
        vocab_size=272,
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=256,
        pad_token_id=None,
        num_labels=labels,
        tie_word_embeddings=False,
    )
    auto = AutoModelForCausalLM if head == "logit" else AutoModelForSequenceClassification
    model = auto.from_config(config)
    if head == "token":
        model.score = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
    model.save_pretrained(folder)
    if head == "token":
        _change(folder / "config.json", architectures=["Qwen2ForRewardModel"])
    tiny_tokenizer(folder)
    if bos:
        _with_bos(folder)
    return folder


def expected(folder: Path, texts: Sequence[tuple[str, str]], *, head: str = "sequence") -> list[float]:
    """Raw rewards by transformers in fp32, one conversation at a time, ids from the template's whole rendering."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    auto = {"logit": AutoModelForCausalLM, "token": AutoModel}.get(head, AutoModelForSequenceClassification)
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    scores = []
    for prompt, completion in texts:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            out = model(ids)
        if head == "token":
            scores.append(_two_layers(folder, out.last_hidden_state[0, -1]))
        else:
            scores.append(float(out.logits[0, -1, 0] if head == "logit" else out.logits[0, 0]))
    return scores


def _two_layers(folder: Path, state_H: torch.Tensor) -> float:
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    inner = torch.relu(weights["score.0.weight"] @ state_H + weights["score.0.bias"])
    return float((weights["score.2.weight"] @ inner + weights["score.2.bias"])[0])


def _with_bos(folder: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 256)]
    )
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder)("a")["input_ids"][0] == 256


def _change(file: Path, **fields: object) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | fields), encoding="utf-8")
