"""Small tokenizers that do something at the beginning of a text, as SentencePiece's and others do."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "Name a river. The river Rhine is 1233 km long.\nRivers are bodies of water; return x + 0.",
    "    return the river of the town\n\n* The Rhine\n* The Elbe: Amen. ok? <b>a</b>",
] * 3
SPECIAL = ("<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>")
KINDS = ("prepend", "always", "first", "never", "byte-level", "prefixed-byte-level", "unigram", "stripping", "rstrip")


def made_tokenizer(kind: str, template: str) -> Any:
    """A tokenizer of one of KINDS, with a chat template.

    prepend: Llama 2's normalizer. always, first, never: what Metaspace does at a beginning. prefixed-byte-level: with
    `add_prefix_space`. unigram: T5's parts. stripping: as XLM-R's normalizer strips. rstrip: prepend, and
    special tokens that swallow the white space behind them, as Phi-3's do.
    """
    if kind in ("byte-level", "prefixed-byte-level"):
        own = Tokenizer(models.BPE())
        own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind.startswith("prefixed"))
        own.decoder = decoders.ByteLevel()
        own.train_from_iterator(TEXTS, trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    elif kind in ("unigram", "stripping"):
        scores = {letter: -9.0 for text in TEXTS for letter in text if letter != " "}
        scores |= {"\u2581": -3.0, "\u2581river": -4.0, "river": -5.0, "\u2581The": -4.0, "The": -5.0, "turn": -5.0}
        own = Tokenizer(models.Unigram([("<unk>", -20.0), *scores.items()], unk_id=0, byte_fallback=False))
        own.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
        own.decoder = decoders.Metaspace(prepend_scheme="always")
        if kind == "stripping":
            own.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    else:
        own = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        own.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
        special = [*SPECIAL[:3], *(f"<0x{byte:02X}>" for byte in range(256))]
        own.train_from_iterator(TEXTS, trainers.BpeTrainer(special_tokens=special))
        content = json.loads(own.to_str())
        content["added_tokens"] = []
        own = Tokenizer.from_str(json.dumps(content))
        if kind in ("prepend", "rstrip"):
            spaces = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
            own.normalizer, own.pre_tokenizer = normalizers.Sequence(spaces), None
        else:
            own.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
        steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        own.decoder = decoders.Sequence(steps if kind == "never" else [*steps, decoders.Strip(" ", 1, 0)])
    special_tokens = [AddedToken(t, special=True, normalized=False, rstrip=kind == "rstrip") for t in SPECIAL]
    own.add_special_tokens(special_tokens)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token="<s>", eos_token="</s>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = template
    return fast
