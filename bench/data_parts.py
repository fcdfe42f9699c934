"""What bench/data_path.py times, each in a process of its own: `python -c` calls one function here and reads its JSON.

Imports are done before the clock starts; memory is the peak above what the process has with its imports.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.units import Chosen

MAX_LENGTH, CAPACITY = 2048, 4096
_KERNEL_ROWS = 4000
OPTIONS = {"unit": Chosen(), "max_length": CAPACITY, "train_on": None, "whole_answer": False}


def call(name: str, arguments: str) -> None:
    """Run one part and print its numbers as the last line."""
    warnings.simplefilter("ignore")
    parts: dict[str, Callable[..., dict[str, float]]] = {
        f.__name__: f for f in (own, trl, tokenizers, kernels, first_batch)
    }
    print(json.dumps(parts[name](**json.loads(arguments))), flush=True)


def own(model: str, data: str) -> dict[str, float]:
    """JSONL to packed training rows: read, render, tokenize, mask, store, pack an epoch, lay every row out.

    Loading the tokenizer is not timed, here as little as in TRL.
    """
    from alignkit.data.prepared.cache import Preparation, prepare_cached
    from alignkit.data.reading.read import Source
    from alignkit.data.trees.packs import lay_out, pack_lengths

    chat = _chat(model)
    chat.encoder.load()
    folder = Path(tempfile.mkdtemp())
    try:
        started = time.perf_counter()
        source = Source(data)
        preparation = Preparation(
            rows=source.rows,
            data={"source": source.fingerprint()},
            chat=chat,
            columns={},
            truncation="cut-completion",
            max_skipped=1.0,
            options=OPTIONS,
        )
        stored = prepare_cached(preparation, folder)
        trees = stored.trees
        packs = (lay_out(trees, row) for row in pack_lengths(trees.lengths(), CAPACITY))
        tokens = sum(len(pack.ids_S) for pack in packs)
        seconds = time.perf_counter() - started
    finally:
        shutil.rmtree(folder)
    return {"rows_per_s": len(trees) / seconds, "tokens": tokens}


def trl(model: str, data: str, num_proc: int | None) -> dict[str, float]:
    """TRL's SFT preparation of the same rows with packing: what its trainer's constructor does with a data set."""
    import datasets
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(model)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    folder = tempfile.mkdtemp()
    try:
        seconds = 0.0
        prepare = SFTTrainer._prepare_dataset

        def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal seconds
            started = time.perf_counter()
            result = prepare(self, *args, **kwargs)
            seconds += time.perf_counter() - started
            return result

        SFTTrainer._prepare_dataset = timed
        started = time.perf_counter()
        rows = datasets.load_dataset("json", data_files=data, split="train", cache_dir=folder)
        seconds += time.perf_counter() - started
        arguments = SFTConfig(
            output_dir=folder,
            max_length=CAPACITY,
            packing=True,
            dataset_num_proc=num_proc,
            use_cpu=True,
            bf16=False,
            report_to=[],
        )
        trainer = SFTTrainer(LlamaForCausalLM(config), arguments, train_dataset=rows, processing_class=tokenizer)
        tokens = sum(len(row) for row in trainer.train_dataset["input_ids"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"rows_per_s": len(rows) / seconds, "tokens": tokens}


def tokenizers(model: str, data: str) -> dict[str, float]:
    """Bare `encode_batch_fast` on the rendered texts of the same rows; rendering is not timed."""
    from alignkit.data.reading.read import Source

    chat = _chat(model)
    texts = [chat.tokenizer.apply_chat_template(_turns(row), tokenize=False) for row in Source(data).rows()]
    started = time.perf_counter()
    for at in range(0, len(texts), 1000):
        chat.tokenizer.backend_tokenizer.encode_batch_fast(texts[at : at + 1000], add_special_tokens=False)
    return {"rows_per_s": len(texts) / (time.perf_counter() - started)}


def kernels(model: str, data: str, num_trees: int) -> dict[str, float]:
    """Packing of trees with these rows' lengths, and masks of their texts; one core each."""
    from alignkit import _native
    from alignkit.data.reading.read import Source

    chat = _chat(model)
    rows = Source(data, limit=_KERNEL_ROWS).rows()
    texts = [chat.tokenizer.apply_chat_template(_turns(row), tokenize=False) for row in rows]
    encoded = chat.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    lengths = np.minimum([len(e.ids) for e in encoded], MAX_LENGTH)
    many = np.random.default_rng(0).choice(lengths, num_trees).astype(np.int64)
    started = time.perf_counter()
    _, num_rows = _native.pack_trees(many, CAPACITY)
    pack_seconds = time.perf_counter() - started
    offsets = np.concatenate([[0], np.cumsum([len(e.ids) for e in encoded])]).astype(np.int64)
    ids = np.concatenate([np.array(e.ids, np.int32) for e in encoded])
    places = np.concatenate([np.array(e.offsets, np.int64).reshape(-1, 2) for e in encoded])
    starts, ends = np.ascontiguousarray(places[:, 0]), np.ascontiguousarray(places[:, 1])
    spans = np.array([[len(text) // 3, len(text)] for text in texts], np.int64)
    span_offsets = np.arange(len(texts) + 1)
    started = time.perf_counter()
    _native.mask_labels(ids, starts, ends, offsets, spans, span_offsets)
    mask_seconds = time.perf_counter() - started
    return {
        "pack_rows_per_s": num_trees / pack_seconds,
        "pack_fill": float(many.sum() / (num_rows * CAPACITY)),
        "mask_mb_per_s": sum(len(text.encode()) for text in texts) / 1e6 / mask_seconds,
    }


def first_batch(model: str, data: str) -> dict[str, float]:
    """From the settings of `alignkit train dpo` to the first step's rows, as the training loop makes them."""
    import transformers

    import alignkit.training.loop.train_loop  # noqa: F401
    from alignkit.config import file as config_file
    from alignkit.data.chat.chat import make_chat
    from alignkit.data.trees.packs import lay_out, pack
    from alignkit.memory import peak_mib, reset_peak
    from alignkit.pretrained.names import find_model
    from alignkit.registry import registry
    from alignkit.training.inputs.setup import prepare_parts
    from alignkit.training.loop.source import step_rows

    transformers.AutoTokenizer  # noqa: B018 - loads it: it is lazy
    reset_peak()
    before = peak_mib()
    started = time.perf_counter()
    method = registry().find("method", "dpo")
    options = {"model": model, "data": data, "truncation": "cut-completion", "max_length": MAX_LENGTH}
    resolved = config_file.resolve(method, options=options, config=None)
    source = find_model(model)
    _, training, _ = prepare_parts(method(), resolved, source, make_chat(source, resolved.model))
    numbers = step_rows(len(training.trees), 16, seed=42, step=1)
    trees = [training.trees[n] for n in numbers]
    packs = [lay_out([trees[n] for n in row]) for row in pack(trees, CAPACITY)]
    seconds = time.perf_counter() - started
    assert sum(len(p.trees) for p in packs) == 16
    return {"seconds": seconds, "peak_extra_mib": peak_mib() - before, "from_cache": float(training.from_cache)}


def _chat(model: str) -> Any:
    from alignkit.config.settings import ModelSection
    from alignkit.data.chat.chat import make_chat
    from alignkit.pretrained.names import find_model

    os.environ.setdefault("RAYON_NUM_THREADS", "2")
    return make_chat(find_model(model), ModelSection())


def _turns(row: Any) -> list[dict[str, str]]:
    return [*map(dict, row.prompt), *map(dict, row.chosen)]
