"""One side of `bench.judging`'s comparison of reward models, in a process of its own: {"seconds", "scores"}.

    vllm            the judge `vllm-reward`, engine started before the clock
    transformers    AutoModelForSequenceClassification, padded batches of conversations sorted by length; the batch size
                    is given, the best of several is the peer's figure

Both make token ids from the same conversations within the clock, in fp32, after a warm-up on eight of them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM_UP = 8
MAX_LENGTH = 1024


def main() -> None:
    side, folder, file, batch_size = sys.argv[1:5]
    texts = json.loads(Path(file).read_text(encoding="utf-8"))
    score = _vllm(folder) if side == "vllm" else _transformers(folder, int(batch_size))
    score(texts[:WARM_UP])
    began = time.perf_counter()
    scores = score(texts)
    print("\n" + json.dumps({"seconds": time.perf_counter() - began, "scores": scores}))


def _vllm(folder: str) -> Callable[[list[Any]], list[float]]:
    from alignkit_plugins.vllm_reward import VLLMReward, VLLMRewardConfig

    from alignkit.scoring.judge import Item, Scored

    judge = VLLMReward(VLLMRewardConfig(model=folder, precision="fp32", max_length=MAX_LENGTH))

    def score(texts: list[Any]) -> list[float]:
        answers = judge.score([Item([{"role": "user", "content": p}], c) for p, c in texts])
        return [answer.value for answer in answers if isinstance(answer, Scored)]

    return score


def _transformers(folder: str, batch_size: int) -> Callable[[list[Any]], list[float]]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()

    def score(texts: list[Any]) -> list[float]:
        turns = [[{"role": "user", "content": p}, {"role": "assistant", "content": c}] for p, c in texts]
        rendered = [tokenizer.apply_chat_template(one, tokenize=False) for one in turns]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in rendered]
        order = sorted(range(len(ids)), key=lambda n: len(ids[n]))
        scores = {}
        with torch.inference_mode():
            for at in range(0, len(order), batch_size):
                numbers = order[at : at + batch_size]
                batch = tokenizer.pad({"input_ids": [ids[n] for n in numbers]}, return_tensors="pt")
                values = model(**batch, use_cache=False).logits[:, 0].tolist()
                scores |= dict(zip(numbers, values, strict=True))
        return [scores[n] for n in range(len(ids))]

    return score
