"""A GGUF file of a Llama or Qwen2 model, written by the `gguf` package of llama.cpp's own project.

    weights     matrices in q8_0 or f16, vectors in f32; a matrix whose rows 32 does not divide is f16, as there
    q, k        llama.cpp turns pairs of neighbouring numbers where transformers turns halves: Llama's are interleaved
    tokens      as many as the embedding has rows; byte-level BPE by its merges, SentencePiece by its scores
    template    the chat template, as Jinja

What a file has to hold is said by llama.cpp's convert_hf_to_gguf.py; nothing of it is taken. Left out: other shapes
and YaRN, which are refused by name, and quantizations that need calibration or a kernel of llama.cpp.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from alignkit.errors import InputError

Kind = Literal["q8_0", "f16"]
_SHAPES = {"llama": "llama", "qwen2": "qwen2"}
_BLOCK = 32  # numbers that share a scale in q8_0
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
_OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How a tokenizer splits text before merging -> llama.cpp's name of it.
_SPLITS = {
    (_GPT2,): "gpt-2",
    ("digit", _GPT2): "smollm",
    (_WORDS + "{1,3}" + _OTHERS,): "llama-bpe",
    (_WORDS + _OTHERS,): "qwen2",
}


def refuse_shape(config: Any, tokenizer: Any) -> None:
    """Check that a model can be written, before anything is.

    Raises:
        InputError: its architecture, its positions or its tokenizer are none that this file writes.
    """
    name = config.model_type
    if name not in _SHAPES:
        raise InputError(
            f"--gguf: a model of type {name} is not written as GGUF, {' and '.join(sorted(_SHAPES))} are; take the "
            "folder, or convert it by llama.cpp's convert_hf_to_gguf.py"
        )
    rope = _rope(config)
    if rope["rope_type"] not in ("default", "linear", "llama3"):
        raise InputError(f"--gguf: positions of type {rope['rope_type']} are not written as GGUF; take the folder")
    if getattr(config, "use_sliding_window", False):
        raise InputError("--gguf: sliding windows of a qwen2 model are not written as GGUF; take the folder")
    if getattr(config, "mlp_bias", False) or getattr(config, "hidden_act", "silu") != "silu":
        raise InputError(
            f"--gguf: a {name} model with biases in its MLP, or another activation than silu; take the folder"
        )
    _tokenizer_kind(json.loads(tokenizer.backend_tokenizer.to_str()))


def write_gguf(
    path: Path, weights: Iterable[tuple[str, torch.Tensor]], *, config: Any, tokenizer: Any, kind: Kind, name: str
) -> None:
    """Write one file.

    Args:
        weights: (name in transformers' checkpoints, tensor); a head that is tied to the embedding is left out.
        config: the model's configuration, as transformers reads it.
        tokenizer: a fast one, with its chat template and its end token.

    Raises:
        InputError: as `refuse_shape`, or a tensor is none that the architecture has.
        OSError: the disk refuses.
    """
    import gguf

    refuse_shape(config, tokenizer)
    architecture = _SHAPES[config.model_type]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    rows = _add_shape(writer, config, kind)
    _add_tokens(writer, tokenizer, rows)
    if architecture == "llama" and (factors := _rope_factors(config)) is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    for given, tensor in weights:
        if given == "lm_head.weight" and config.tie_word_embeddings:
            continue
        target = names.get_name(given, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise InputError(f"--gguf: {given} is no tensor of a {config.model_type} model; take the folder")
        array = tensor.detach().to("cpu", torch.float32).numpy()
        if architecture == "llama" and ".self_attn." in given:
            array = _turned(given, array, config)
        _add_tensor(writer, target, array, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tensor(writer: Any, name: str, array: np.ndarray, kind: Kind) -> None:
    import gguf

    types = gguf.GGMLQuantizationType
    if array.ndim < 2:
        writer.add_tensor(name, np.ascontiguousarray(array))
    elif kind == "q8_0" and array.shape[-1] % _BLOCK == 0:
        writer.add_tensor(name, gguf.quants.quantize(array, types.Q8_0), raw_dtype=types.Q8_0)
    else:
        writer.add_tensor(name, array.astype(np.float16))


def _turned(name: str, array: np.ndarray, config: Any) -> np.ndarray:
    """A Llama's query or key rows with the two halves of each head interleaved; others as they are."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return array
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))


def _add_shape(writer: Any, config: Any, kind: Kind) -> int:
    """Write the sizes; returns the rows of the embedding."""
    import gguf

    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = _rope(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if kind == "q8_0" else gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    return int(config.vocab_size)


def _rope(config: Any) -> dict[str, Any]:
    """Its type, base and factors, wherever the configuration has them."""
    found = dict(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {})
    found.setdefault("rope_type", found.get("type", "default"))
    found.setdefault("rope_theta", getattr(config, "rope_theta", 10_000.0))
    return found


def _rope_factors(config: Any) -> np.ndarray | None:
    """What Llama 3.1 divides each frequency by: 1 for short waves, the factor for long ones, between them a mixture."""
    rope = _rope(config)
    if rope["rope_type"] != "llama3":
        return None
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    context = float(rope["original_max_position_embeddings"])
    factors = []
    for number in range(0, head, 2):
        wavelength = 2 * math.pi * float(rope["rope_theta"]) ** (number / head)
        share = (context / wavelength - low) / (high - low)  # 0 at the long waves' end, 1 at the short ones'
        share = min(1.0, max(0.0, share))
        factors.append(1 / ((1 - share) / float(rope["factor"]) + share))
    return np.array(factors, dtype=np.float32)


def _add_tokens(writer: Any, tokenizer: Any, rows: int) -> None:
    import gguf

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model, split = _tokenizer_kind(content)
    own = content["model"]["vocab"]
    added = {token["id"]: token for token in content["added_tokens"]}
    texts = {number: text for text, number in own.items()} | {number: t["content"] for number, t in added.items()}
    unknown = content["model"].get("unk_token")
    kinds = gguf.TokenType
    tokens, types = [], []
    for number in range(rows):
        text = texts.get(number)
        if text is None:
            kind, text = kinds.UNUSED, f"[PAD{number}]"
        elif number in added:
            kind = kinds.CONTROL if added[number]["special"] else kinds.USER_DEFINED
        elif model == "llama" and len(text) == 6 and text.startswith("<0x"):
            kind = kinds.BYTE
        else:
            kind = kinds.NORMAL
        if model == "llama" and text == unknown:
            kind = kinds.UNKNOWN
        tokens.append(text)
        types.append(kind)
    writer.add_tokenizer_model(model)
    if split is not None:
        writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    if model == "llama":
        writer.add_token_scores(_scores(tokens, merges))
        writer.add_add_space_prefix(_has_prefix(content))
    else:
        writer.add_token_merges(merges)
    writer.add_token_types(types)
    plain = tokenizer("a")["input_ids"]
    for name in ("bos", "eos", "unk", "pad"):
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(bool(plain) and plain[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(False)
    if tokenizer.eos_token_id is not None:  # the end of a turn, as an alignkit folder has it
        writer.add_eot_token_id(tokenizer.eos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """SentencePiece's scores: what is merged earlier has a higher one; what no merge makes is never merged into."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", ""), rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _has_prefix(content: Mapping[str, Any]) -> bool:
    """Whether a text is read as if a space stood before it."""
    parts = [*_parts(content.get("normalizer"), "normalizers"), *_parts(content.get("pre_tokenizer"), "pretokenizers")]
    return any(
        part["type"] == "Prepend" or (part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never")
        for part in parts
    )


def _tokenizer_kind(content: Mapping[str, Any]) -> tuple[str, str | None]:
    """llama.cpp's name of the tokenizer and of its way to split text. Raises InputError where it has none."""
    if content["model"]["type"] != "BPE":
        raise InputError(
            f"--gguf: a tokenizer of type {content['model']['type']} is not written as GGUF; take the folder"
        )
    if content["model"].get("byte_fallback"):
        return "llama", None
    if not content["model"]["merges"]:
        raise InputError("--gguf: llama.cpp reads no tokenizer of single bytes, which merges nothing; take the folder")
    names: list[str] = []
    for part in _parts(content.get("pre_tokenizer"), "pretokenizers"):
        if part["type"] == "Digits" and part["individual_digits"]:
            names.append("digit")
        elif part["type"] == "Split":
            names.append(part["pattern"].get("Regex", part["pattern"].get("String", "")))
        elif part["type"] == "ByteLevel":
            if part.get("use_regex", True):
                names.append(_GPT2)
        else:
            names.append(part["type"])
    split = _SPLITS.get(tuple(names))
    if split is None:
        raise InputError(
            "--gguf: llama.cpp has no known name for how this tokenizer splits text "
            f"({', '.join(names)[:80] or 'not at all'}); take the folder, or convert it by convert_hf_to_gguf.py"
        )
    return "gpt2", split


def _parts(node: Mapping[str, Any] | None, inner: str) -> list[Mapping[str, Any]]:
    if node is None:
        return []
    return list(node[inner]) if node["type"] == "Sequence" else [node]
