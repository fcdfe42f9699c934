"""Small random models with real parts: a byte-level tokenizer of 300 tokens, or Qwen2.5's real vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignkit.data.chat.chat import CHATML

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tiny_tokenizer(folder: Path, *, template: str | None = CHATML, merges: Sequence[tuple[str, str]] = ()) -> None:
    """A byte-level tokenizer: one token a byte, three special tokens (ids 256, 257, 258), then what merges make."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = alphabet + ([*SPECIAL, *map("".join, merges)] if merges else [])
    bytes_only = Tokenizer(models.BPE(vocab={text: n for n, text in enumerate(texts)}, merges=list(merges)))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bytes_only.decoder = decoders.ByteLevel()
    bytes_only.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(tokenizer_object=bytes_only, eos_token="<|endoftext|>")
    fast.chat_template = template
    fast.save_pretrained(folder)


def tiny_model(
    folder: Path,
    *,
    kind: str = "qwen2",
    seed: int = 0,
    template: str | None = CHATML,
    vocab_size: int = 272,
    tied: bool = True,
    merges: Sequence[tuple[str, str]] = (),
    **options: object,
) -> Path:
    """Write a random two-layer model of some architecture with the tiny tokenizer; `options` are its config's."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    torch.manual_seed(seed)
    config = CONFIG_MAPPING[kind](
        **{
            "vocab_size": vocab_size,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "tie_word_embeddings": tied,
            "bos_token_id": None,
            "eos_token_id": 256,
            "pad_token_id": None,
        }
        | options
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer(folder, template=template, merges=merges)
    return folder
