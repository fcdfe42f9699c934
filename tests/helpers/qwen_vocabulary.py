"""Qwen2.5's real vocabulary without a hub, for tests on a small random Qwen2 model.

The package dashscope carries it as `qwen.tiktoken`: 151,643 byte strings with their ranks, which are the ids. A
tokenizer of transformers also wants the merges. They follow from the ranks: a token is made by one last merge, of the
two parts that its bytes come down to when only merges of lower rank are done.
"""

from __future__ import annotations

import base64
import importlib.util
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# A word with the mark before it, one digit, punctuation with the line ends after it, line ends, white space.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
_ADDED = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"
).split()
VOCAB_SIZE = 151_936  # rows of the embedding; the ids above the last token are unused


def is_available() -> bool:
    """Whether the package that carries the vocabulary is installed."""
    return importlib.util.find_spec("dashscope") is not None


def qwen_tokenizer(folder: Path, *, template: str) -> None:
    """Write Qwen2.5's tokenizer with a chat template into a folder."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ranks = _ranks()
    spelling = _byte_letters()
    spelled = {token: "".join(spelling[byte] for byte in token) for token in ranks}
    merges = [tuple(spelled[part] for part in _parts(token, ranks)) for token in ranks if len(token) > 1]
    bpe: Any = Tokenizer(models.BPE(vocab={spelled[token]: rank for token, rank in ranks.items()}, merges=merges))
    bpe.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    bpe.add_tokens([AddedToken(token, special=False, normalized=False) for token in _ADDED])
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = template
    fast.save_pretrained(folder)


def small_qwen(folder: Path, *, template: str, seed: int = 0) -> Path:
    """Write a random two-layer Qwen2 model with Qwen2.5's vocabulary and a chat template."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=151_643,
        eos_token_id=151_645,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    qwen_tokenizer(folder, template=template)
    return folder


def _ranks() -> dict[bytes, int]:
    """Every token's bytes with its rank, lowest rank first."""
    spec = importlib.util.find_spec("dashscope")
    assert spec is not None and spec.origin is not None
    lines = (Path(spec.origin).parent / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    pairs = [line.split() for line in lines if line]
    return {base64.b64decode(token): int(rank) for token, rank in sorted(pairs, key=lambda pair: int(pair[1]))}


def _byte_letters() -> list[str]:
    """The letter that byte-level BPE writes for each byte: itself where it can be seen, else one from 256 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), 256)}
    hidden = iter(range(256, 512))
    return [chr(byte) if byte in visible else chr(next(hidden)) for byte in range(256)]


def _parts(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts whose merge makes a token: merge its bytes by rank for as long as a rank is below its own."""
    parts = [token[at : at + 1] for at in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(parts)]
        at = min(range(len(joined)), key=joined.__getitem__)
        assert joined[at] < ranks[token], f"no merge makes token {ranks[token]}"
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    left, right = parts
    return left, right
