"""Which files hold a model folder's weights: found and checked before anything loads them, and hashed.

transformers reads the file that config.json's `transformers_weights` names, else model.safetensors, else the shards
that model.safetensors.index.json names. Other weights in the folder are not read: neither checked nor hashed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignkit.errors import InputError, first_line

_ONE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SETTINGS = (
    "config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "tekken.json",
    "*.model",
    "chat_template*",
    "additional_chat_templates/*",
)


def weight_files(folder: Path) -> dict[str, Path]:
    """Return the safetensors files that hold a model's weights, by the name that the folder gives them, sorted.

    Raises:
        InputError: there are none, they are an adapter's, or an index cannot be read, names something that is not a
            safetensors file, or leads out of the folder. A link into the hub's own cache stays inside.
    """
    if (folder / "adapter_config.json").exists():
        raise InputError(
            f"{folder}: an adapter lies in it (adapter_config.json), which would be loaded on top of the weights; "
            "merge the two first (peft's merge_and_unload), or remove it"
        )
    named = _named_in_config(folder)
    if named is None:
        named = _ONE if (folder / _ONE).is_file() or not (folder / _INDEX).exists() else _INDEX
    if not named.endswith(".index.json"):
        if not (folder / named).is_file():
            raise InputError(f"{folder}: cannot be loaded (no weights in it); a model needs whole safetensors")
        return {named: folder / named}
    return {name: folder / name for name in sorted(set(_weight_map(folder, named).values()))}


def check_weights(folder: Path) -> None:
    """Check that every file of the weights is whole, without reading its tensors.

    Raises:
        InputError: one is torn or not a safetensors file, or as `weight_files`.
    """
    from safetensors import SafetensorError, safe_open

    for name, file in weight_files(folder).items():
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{folder}: cannot be loaded ({name}: {first_line(error)}); a model needs whole safetensors"
            ) from error


def weights_fingerprint(folder: Path) -> str:
    """Hash a model's weights: of shards, which tensor lies in which, and each one's name and content.

    Raises:
        InputError: as `weight_files`.
    """
    files = weight_files(folder)
    digest = hashlib.sha256()
    if list(files) == [_ONE]:
        digest.update(_content(files[_ONE]))
        return digest.hexdigest()
    for name, file in files.items():
        digest.update(f"{name}\0".encode("utf-8", "replace") + _content(file))
    named = _named_in_config(folder) or _INDEX
    if named.endswith(".index.json"):
        digest.update(json.dumps(_weight_map(folder, named), sort_keys=True).encode())
    return digest.hexdigest()


def settings_fingerprint(folder: Path) -> str:
    """Hash what changes the answers of the same weights: config.json, the tokenizer, the chat template."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in _SETTINGS for file in folder.glob(pattern) if file.is_file()}):
        name = file.relative_to(folder).as_posix()
        digest.update(f"{name}\0".encode("utf-8", "replace") + _content(file))
    return digest.hexdigest()


def folder_fingerprint(folder: Path) -> str:
    """Hash the weights and the settings. Raises as `weight_files`."""
    return hashlib.sha256(f"{weights_fingerprint(folder)} {settings_fingerprint(folder)}".encode()).hexdigest()


def _content(file: Path) -> bytes:
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); give a model whose files you may read") from error


def _named_in_config(folder: Path) -> str | None:
    """Return the file that config.json names for the weights; a damaged config.json is left to its own reader."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    named = config.get("transformers_weights") if isinstance(config, dict) else None
    if named is None:
        return None
    where = f"{folder / 'config.json'}: transformers_weights"
    if not isinstance(named, str) or not named.endswith((".safetensors", ".safetensors.index.json")):
        raise InputError(f"{where} is {named!r}; it can only name a safetensors file or an index of some")
    _refuse_outside(folder, named, where=where)
    return named


def _weight_map(folder: Path, name: str) -> Mapping[str, str]:
    """Return the index's map of tensor to file; each is a safetensors file in the folder."""
    index = folder / name
    try:
        content: Any = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{index}: cannot be read ({first_line(error)}); copy the model again") from error
    tensors = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not tensors or not isinstance(content.get("metadata"), dict):
        raise InputError(
            f"{index}: no index of shards (metadata, and weight_map: tensor to file); copy the model again"
        )
    for file in tensors.values():
        if not isinstance(file, str) or not file.endswith(".safetensors"):
            raise InputError(f"{index}: {file!r} is no .safetensors file of this folder; only those are read")
    for file in sorted(set(tensors.values())):
        _refuse_outside(folder, file, where=str(index))
        if not (folder / file).is_file():
            raise InputError(f"{index}: names {file!r}, which is not there; copy the model again, with all its shards")
    return tensors


def _refuse_outside(folder: Path, name: str, *, where: str) -> None:
    """Refuse a name that leads out of the folder, except the links of a snapshot in the hub's cache."""
    is_plain = not Path(name).is_absolute() and ".." not in Path(name).parts and "\0" not in name
    try:
        is_inside = is_plain and _is_inside(folder.resolve(), folder / name)
    except (OSError, ValueError, RuntimeError):  # a link to itself
        is_inside = False
    if not is_inside:
        raise InputError(
            f"{where}: {name!r} is no .safetensors file of this folder, it leads out of it; copy it into the folder"
        )


def _is_inside(folder: Path, file: Path) -> bool:
    """Whether a file lies in a folder. The hub's cache keeps a snapshot's files in MODEL/blobs, wherever that is."""
    if file.resolve().is_relative_to(folder):
        return True
    cache = next((parent.parent for parent in folder.parents if parent.name == "snapshots"), None)
    if cache is None or not file.is_symlink():
        return False
    linked = file.parent.resolve() / file.readlink()
    return file.parent.resolve().is_relative_to(folder) and linked.parent.resolve() == (cache / "blobs").resolve()
