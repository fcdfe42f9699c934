"""A PEFT folder with a LoRA adapter, as a model: put on its base, and merged with it into a folder in the cache.

What adapter_config.json says is not what the user said: of it are taken numbers, names of layers, and the name of the
base, which has to be on this machine already. Nothing is fetched because the file names it, no class that it names is
imported, and no pattern that it holds is matched: which layers have an adapter is read off the tensors themselves. A
setting that would change what is computed and is not known here is refused by name.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from alignkit.errors import InputError, first_line
from alignkit.memory import is_out_of_memory
from alignkit.pretrained.read import load_tokenizer, read_config, read_model
from alignkit.pretrained.saved_files import settle_config, settle_tokenizer
from alignkit.pretrained.weights import folder_fingerprint
from alignkit.storage import cache_folder, file_hash, new_folder, read_object

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_logger = logging.getLogger(__name__)
_READ = {"r", "lora_alpha", "use_rslora", "fan_in_fan_out", "peft_type", "task_type", "base_model_name_or_path"}
# Of these the tensors say what counts (which layers), or they speak of how training began, which is over.
_IDLE = {
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "inference_mode"),
    *("auto_mapping", "revision", "peft_version", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("megatron_core", "qalora_group_size", "runtime_config", "ensure_weight_tying"),
}
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # others change the base's weights as well
_ERRORS = (RuntimeError, ValueError, TypeError, KeyError, AttributeError, AssertionError, NotImplementedError, OSError)


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: W + scale B A, where scale is alpha / rank, or alpha / sqrt(rank).

    Args:
        folder: of PEFT.
        base_name: the model under it, as adapter_config.json names it.
        rank, alpha: of all layers alike.
        targets: the layers that have one: their own names where every layer of that name does, else whole paths.
    """

    folder: Path
    base_name: str
    rank: int
    alpha: int
    targets: tuple[str, ...]
    is_rank_stabilized: bool = False
    fan_in_fan_out: bool = False

    def settings(self, *, dropout: float = 0.0) -> Any:
        """The LoraConfig of PEFT."""
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=dropout,
            use_rslora=self.is_rank_stabilized,
            fan_in_fan_out=self.fan_in_fan_out,
            target_modules=list(self.targets),
            task_type="CAUSAL_LM",
            base_model_name_or_path=self.base_name,
        )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no whole model."""
    return (folder / CONFIG).is_file() and not any(folder.glob("model*.safetensors"))


def read_adapter(folder: Path) -> Adapter:
    """Read what an adapter is.

    Raises:
        InputError: it is not LoRA in safetensors for a causal model, or has a part that is not known here.
    """
    content = read_object(folder / CONFIG)
    where = f"{folder / CONFIG}"
    if content.get("peft_type") != "LORA":
        raise InputError(f"{where}: an adapter of type {content.get('peft_type')!r}; LoRA is read")
    if content.get("task_type") not in (None, "CAUSAL_LM"):
        raise InputError(f"{where}: task_type {content['task_type']!r}; an adapter of a causal model is read")
    if content.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise _unread(where, "init_lora_weights", content["init_lora_weights"])
    for key, value in content.items():
        if key not in _READ | _IDLE | {"init_lora_weights"} and value not in (None, False, "none", [], {}):
            raise _unread(where, key, value)
    rank, alpha, base = content.get("r"), content.get("lora_alpha"), content.get("base_model_name_or_path")
    for key, number in (("r", rank), ("lora_alpha", alpha)):
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise InputError(f"{where}: {key} is {number!r}; a whole number above 0 is read")
    if not isinstance(base, str) or not base:
        raise InputError(f"{where}: base_model_name_or_path names no model; write there which one is under the adapter")
    assert isinstance(rank, int) and isinstance(alpha, int)
    modules = _modules(folder, rank)
    flags = [content.get(key) is True for key in ("use_rslora", "fan_in_fan_out")]
    return Adapter(folder, base, rank, alpha, _short(content, modules), *flags)


def put_on(model: Any, adapter: Adapter, *, dropout: float = 0.0) -> Any:
    """Wrap a model with an adapter that can be trained.

    Raises:
        InputError: it does not fit the model.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    try:
        wrapped = PeftModel.from_pretrained(
            model, str(adapter.folder), config=adapter.settings(dropout=dropout), is_trainable=True
        )
    except _ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"{adapter.folder}: the adapter does not fit its base: {first_line(error)}") from error
    with safe_open(adapter.folder / WEIGHTS, framework="numpy") as opened:
        saved = set(opened.keys())
    if other := sorted(saved ^ set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))):
        raise InputError(f"{adapter.folder}: the adapter does not fit its base, as {other[0]} shows")
    return wrapped


def merged_folder(adapter: Adapter, base: Path) -> Path:
    """Return a folder of base and adapter in one, in fp32, with the adapter's tokenizer; written once into the cache.

    Raises:
        InputError: one of the two cannot be read, or they do not fit.
    """
    hashes = [
        folder_fingerprint(base),
        *(file_hash(file) for file in sorted(adapter.folder.iterdir()) if _counts(file)),
    ]
    final = cache_folder() / "adapters" / hashlib.sha256(" ".join(hashes).encode()).hexdigest()
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(final.with_name(f".{final.name}.lock")):
        if not final.exists():  # else another process was first
            with new_folder(final) as working:
                _merge(adapter, base, working)
            _logger.warning("%s: a LoRA adapter on %s; both are merged into %s", adapter.folder, base, final)
    return final


def _merge(adapter: Adapter, base: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    config = read_config(base)
    model = read_model(AutoModelForCausalLM, base, config=config, what="a causal model", dtype=torch.float32)
    model = put_on(model, adapter).merge_and_unload()
    model.save_pretrained(out)
    settle_config(out, base, dtype="float32")
    own = adapter.folder if any(adapter.folder.glob("tokenizer*")) else base
    tokenizer = load_tokenizer(own)
    tokenizer.save_pretrained(out)
    settle_tokenizer(out, own, tokenizer, added=False)


def _counts(file: Path) -> bool:
    """Whether a file of the folder decides what the merged model is; a card or a trainer's state does not."""
    named = file.name.startswith(
        ("adapter_", "tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "chat_")
    )
    return file.is_file() and named


def _modules(folder: Path, rank: int) -> set[str]:
    """Paths of the layers that have an adapter.

    Raises:
        InputError: the weights are no safetensors, of another rank, or hold more than pairs of A and B.
    """
    from safetensors import SafetensorError, safe_open

    file = folder / WEIGHTS
    if not file.is_file():
        pickled = (
            " (adapter_model.bin is a pickle, which is not read)" if (folder / "adapter_model.bin").exists() else ""
        )
        raise InputError(f"{folder}: no adapter of safetensors in it, {WEIGHTS}{pickled}")
    found: dict[str, set[str]] = {_A: set(), _B: set()}
    try:
        with safe_open(file, framework="numpy") as opened:
            for name in opened.keys():  # noqa: SIM118  # no mapping
                ending = next((ending for ending in (_A, _B) if name.endswith(ending)), None)
                if ending is None or not name.startswith(_PREFIX):
                    raise InputError(f"{file}: {name} is no part of a plain LoRA adapter; {_MERGE}")
                shape = opened.get_slice(name).get_shape()
                if len(shape) != 2 or shape[0 if ending == _A else 1] != rank:
                    raise InputError(f"{file}: {name} is of shape {shape}, its config says rank {rank}; {_MERGE}")
                found[ending].add(name.removeprefix(_PREFIX).removesuffix(ending))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: cannot be read: {first_line(error)}") from error
    if not found[_A] or found[_A] != found[_B]:
        raise InputError(f"{file}: its A and B matrices are not pairs; copy the adapter again")
    return found[_A]


def _short(content: Mapping[str, Any], modules: set[str]) -> tuple[str, ...]:
    """The layers' own names where the file says that all layers of these names have an adapter; else their paths."""
    own = {path.rpartition(".")[2] for path in modules}
    said = content.get("target_modules")
    chosen = any(content.get(key) for key in ("exclude_modules", "layers_to_transform", "layers_pattern"))
    is_all = isinstance(said, list) and not chosen and set(map(str, said)) == own
    return tuple(sorted(own if is_all else modules))


_MERGE = "merge it into its base with PEFT (merge_and_unload), and name that folder"


def _unread(where: str, key: str, value: object) -> InputError:
    return InputError(f"{where}: {key} is {str(value)[:40]!r}, which is not computed here; {_MERGE}")
