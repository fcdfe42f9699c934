"""A saved folder's settings in the form that transformers 4 and 5 both read, and servers built on either.

What version 5 writes is not what version 4 reads: `rope_parameters` for `rope_theta` (version 4 would silently
compute with 10,000 instead), a list `extra_special_tokens`, the class TokenizersBackend. Version 5 reads the older
form. So the files of the folder that the model came from are kept, and only what training changed is set in them: end
and pad tokens, the chat template, labels, rows of the embedding. Without such files, those just saved are rewritten.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

# What training changes; everything else is the source's.
_TRAINED = (
    "architectures",
    "eos_token_id",
    "pad_token_id",
    "vocab_size",
    "num_labels",
    "id2label",
    "label2id",
    "problem_type",
    "tie_word_embeddings",
)
_OF_THE_SOURCE = ("auto_map", "transformers_weights", "quantization_config", "_name_or_path")  # true of its files alone
_OF_A_LOADING = ("is_local", "local_files_only", "backend", "auto_map", "name_or_path")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model")


def settle_config(folder: Path, source: Path | None, *, dtype: str) -> None:
    """Rewrite a saved config.json.

    Args:
        source: the folder that the model came from.
        dtype: of the saved weights: "bfloat16", "float32".
    """
    saved = _read(folder / "config.json")
    own = _read(source / "config.json") if source is not None else {}
    content = saved
    if own.get("model_type") == saved.get("model_type") and "text_config" not in own:
        kept = {key: value for key, value in own.items() if key not in _OF_THE_SOURCE or key in saved}
        content = kept | {key: saved[key] for key in _TRAINED if key in saved}
    content["torch_dtype" if "torch_dtype" in own else "dtype"] = dtype
    for part in (content, content.get("text_config")):
        if isinstance(part, dict):
            _add_older_rope(part)
    _write(folder / "config.json", content)


def settle_tokenizer(folder: Path, source: Path | None, tokenizer: Any, *, added: bool) -> None:
    """Rewrite a saved tokenizer's files.

    Args:
        source: the folder that it came from.
        added: it has a token that the source's does not have.
    """
    saved = _read(folder / "tokenizer_config.json")
    own = _read(source / "tokenizer_config.json") if source is not None else {}
    content = {key: value for key, value in (own or saved).items() if key not in _OF_A_LOADING}
    if content.get("tokenizer_class") in (None, "TokenizersBackend"):
        content["tokenizer_class"] = "PreTrainedTokenizerFast"
    extra = content.get("extra_special_tokens")
    if isinstance(extra, list):  # version 4 wants names there
        del content["extra_special_tokens"]
        known = content.get("additional_special_tokens") or []
        content["additional_special_tokens"] = [*known, *(_text(token) for token in extra if _text(token) not in known)]
    for name in ("eos_token", "pad_token"):
        if (token := getattr(tokenizer, name)) is not None:
            content[name] = str(token)
    if added and isinstance(content.get("added_tokens_decoder"), dict):
        number = str(tokenizer.pad_token_id)
        flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
        content["added_tokens_decoder"][number] = {"content": str(tokenizer.pad_token), **flags, "special": True}
    if tokenizer.chat_template is not None:
        content["chat_template"] = tokenizer.chat_template
    _write(folder / "tokenizer_config.json", content)
    if source is None:
        return
    for name in _TOKENIZER_FILES if not added else _TOKENIZER_FILES[1:]:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if (source / "special_tokens_map.json").is_file():
        ends = {name: content[name] for name in ("eos_token", "pad_token") if name in content}
        _write(folder / "special_tokens_map.json", _read(source / "special_tokens_map.json") | ends)


def _add_older_rope(part: dict[str, Any]) -> None:
    """Repeat `rope_parameters` under version 4's names."""
    rope = part.get("rope_parameters")
    if not isinstance(rope, dict):
        return
    local = rope.get("sliding_attention")
    whole = rope.get("full_attention") if "full_attention" in rope else rope
    if isinstance(local, dict) and "rope_theta" in local:
        part.setdefault("rope_local_base_freq", local["rope_theta"])
    if not isinstance(whole, dict):
        return
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in whole:
            part.setdefault(name, whole[name])
    if whole is rope and rope.get("rope_type", "default") != "default":
        part.setdefault("rope_scaling", {key: value for key, value in rope.items() if key != "rope_theta"})


def _text(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) and "content" in token else str(token)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
