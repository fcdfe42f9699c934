"""What bench/train_step.py trains on: real rows as token ids, and two models.

A case is one optimizer step's rows, the same in every step. Every side reads the same ids from the same file.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.texts import ROOT

SHARED = Path(os.environ.get("ALIGNKIT_BENCH_DATA") or ROOT.parent / "shared" / "data")
TEXTS = SHARED / "preference-dev.jsonl.gz"
MODELS = ("smollm2", "qwen-shape")
SHAPES: dict[str, dict[str, int]] = {  # random weights in Qwen2.5's shapes, with its vocabulary
    "qwen-shape": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 6, "num_attention_heads": 14},
    "qwen-0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "qwen-short": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 4, "num_attention_heads": 14},
    "qwen-3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16},
    "rehearsal": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
}
MAX_TOKENS = 1024  # of a row's prompt and its longer completion


def write_model(folder: Path, name: str, *, tokenizer: Path | None = None) -> Path:
    """Return SmolLM2-135M's folder, or write a random model of one of `SHAPES` with the real vocabulary.

    `tokenizer` is a folder that has its tokenizer; where there is none it is made.
    """
    from alignkit.pretrained import embedded

    if name == "smollm2":
        return embedded.folder()
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    from qwen_vocabulary import qwen_tokenizer

    from alignkit.data.chat.chat import CHATML

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151_936,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        rope_theta=1e6,
        **SHAPES[name],
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    if tokenizer is None or not tokenizer.exists():
        qwen_tokenizer(folder, template=CHATML)
    else:
        shutil.copytree(tokenizer, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("config.json"))
    return folder


def write_cases(folder: Path, model: Path, *, num_rows: int) -> dict[str, Path]:
    """Write a file for each case; `num_rows` real rows a step for sft and dpo, a quarter of it for the others.

    The real rows stand at even quantiles of length, so that a short step is like the data: the first six of the file
    are half as long as its mean.

    Raises:
        SystemExit: the real rows are not here.
    """
    if not TEXTS.exists():
        raise SystemExit(f"skipped: {TEXTS}, the real rows that this benchmark trains on, is not here")
    real = _tokenized(model)
    few = max(1, num_rows // 4)
    short = [row for row in real if len(row["prompt"]) + max(map(len, row["completions"])) <= MAX_TOKENS]
    short.sort(key=lambda row: len(row["prompt"]) + sum(map(len, row["completions"])))
    chosen = [short[int((n + 0.5) * len(short) / num_rows)] for n in range(num_rows)]
    cases: dict[str, list[dict[str, Any]]] = {
        "sft": [{**row, "completions": row["completions"][:1]} for row in chosen],
        "dpo": chosen,
        "dpo_long_prompt": _shaped(real, few, prompt=512, lengths=(128, 128)),
        "grpo_train": _shaped(real, few, prompt=256, lengths=tuple(np.linspace(64, 192, 8).astype(int).tolist())),
    }
    rng = np.random.default_rng(0)
    for row in cases["grpo_train"]:
        row["advantages"] = rng.normal(size=len(row["completions"])).tolist()
        row["noise"] = [(0.1 * rng.normal(size=len(ids))).tolist() for ids in row["completions"]]
    paths = {}
    for name, rows in cases.items():
        paths[name] = folder / f"{name}.json"
        paths[name].write_text(json.dumps(rows), encoding="utf-8")
    return paths


def num_tokens(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Count a step's tokens: in sequences without padding, and with each prompt once."""
    own = sum(len(ids) for row in rows for ids in row["completions"])
    sequences = sum(len(row["prompt"]) * len(row["completions"]) for row in rows) + own
    return {"sequences": sequences, "shared": sum(len(row["prompt"]) for row in rows) + own, "scored": own}


def _tokenized(model: Path) -> list[dict[str, Any]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = []
    with gzip.open(TEXTS, "rt", encoding="utf-8") as file:
        for line in (line for _, line in zip(range(400), file, strict=False)):
            row = json.loads(line)
            answers = [row[side][-1]["content"].strip() for side in ("chosen", "rejected")]
            if not all(answers) or answers[0] == answers[1]:
                continue
            prompt = tokenizer.apply_chat_template(
                row["prompt"], tokenize=True, add_generation_prompt=True, return_dict=False
            )
            ids = [tokenizer(f"{text}<|im_end|>", add_special_tokens=False)["input_ids"] for text in answers]
            rows.append({"id": row["id"], "prompt": prompt, "completions": ids})
    return rows


def _shaped(real: list[dict[str, Any]], count: int, *, prompt: int, lengths: tuple[int, ...]) -> list[dict[str, Any]]:
    """Cut the real rows' token stream into rows of fixed lengths."""
    stream = np.concatenate([row["prompt"] + row["completions"][0] for row in real])
    rows, at = [], 0
    for number in range(count):
        parts = []
        for length in (prompt, *lengths):
            parts.append(stream[at : at + length].tolist())
            at += length
        rows.append({"id": f"shaped-{number}", "prompt": parts[0], "completions": parts[1:]})
    return rows
