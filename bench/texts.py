"""What the data benchmark runs on: rows of real texts recombined, and tokenizer folders of two real vocabularies."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ROOT.parent / "shared" / "data" / "preference-dev.jsonl.gz"
VOCABULARIES = ("smollm2", "qwen2.5")


def real_rows() -> list[dict[str, Any]]:
    """Read the real preference rows.

    Raises:
        SystemExit: they are not here.
    """
    if not TEXTS.exists():
        raise SystemExit(f"{TEXTS}: the real texts that this benchmark needs are not here")
    with gzip.open(TEXTS, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_rows(path: Path, count: int, *, seed: int = 0) -> None:
    """Write preference rows whose lengths are those of real rows and whose sentences are real, in new orders.

    Sentences of each column are drawn from that column's pool, so that no whole text repeats. `completion` is the
    chosen answer again: one file is read by both sides.

    Raises:
        SystemExit: the real texts are not here.
    """
    real = [
        row for row in real_rows() if row["chosen"][-1]["content"].strip() and row["rejected"][-1]["content"].strip()
    ]
    pools = {name: _sentences([row[name][-1]["content"] for row in real]) for name in ("prompt", "chosen", "rejected")}
    generator = np.random.default_rng(seed)
    with open(path, "w", encoding="utf-8") as out:
        for number in range(count):
            like = real[int(generator.integers(len(real)))]
            texts = {name: _recombined(pools[name], len(like[name][-1]["content"]), generator) for name in pools}
            row: dict[str, Any] = {"id": f"row-{number}"}
            row["prompt"] = [{"role": "user", "content": texts["prompt"]}]
            for name in ("chosen", "rejected"):
                row[name] = [{"role": "assistant", "content": texts[name]}]
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_answers(path: Path, rows: Path, count: int) -> None:
    """Write the first rows as TRL reads them, `prompt` and `completion`; alignkit reads that shape too."""
    with open(rows, encoding="utf-8") as file, open(path, "w", encoding="utf-8") as out:
        for _, line in zip(range(count), file, strict=False):
            row = json.loads(line)
            answer = {"id": row["id"], "prompt": row["prompt"], "completion": row["chosen"]}
            out.write(json.dumps(answer, ensure_ascii=False) + "\n")


def write_tokenizer(folder: Path, vocabulary: str) -> Path:
    """Write a folder with a real tokenizer, its ChatML template and a configuration, without weights."""
    folder.mkdir(parents=True)
    if vocabulary == "smollm2":
        from alignkit.pretrained import embedded

        for file in embedded.folder().iterdir():
            if file.suffix != ".safetensors":
                shutil.copy(file, folder / file.name)
    else:
        sys.path.insert(0, str(ROOT / "tests" / "helpers"))
        from qwen_vocabulary import VOCAB_SIZE, qwen_tokenizer

        from alignkit.data.chat.chat import CHATML

        qwen_tokenizer(folder, template=CHATML)
        sizes = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 32768, "model_type": "qwen2"}
        (folder / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    return folder


def _sentences(texts: list[str]) -> list[str]:
    return [
        part
        for text in texts
        for part in re.findall(r".+?(?:[.!?\u3002\uff01\uff1f]\s+|\n+|$)", text, flags=re.S)
        if part
    ]


def _recombined(pool: list[str], length: int, generator: np.random.Generator) -> str:
    """Draw sentences until their text is as long as a real one, in characters."""
    parts: list[str] = []
    size = 0
    while size < length or not size:
        part = pool[int(generator.integers(len(pool)))]
        parts.append(part)
        size += len(part)
    return "".join(parts)[: max(length, 1)].strip() or "Hi"
