"""The one place where a folder's files are handed to transformers: no code of the folder is run, nothing is fetched.

`trust_remote_code=False` stands in every call, because without it transformers asks on the terminal whether the
folder's code may run. Weights are safetensors inside the folder, never pickles. Whatever transformers raises about a
folder's content is an InputError: a wrong type in config.json is the folder's fault, not ours.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, TypeVar

from alignkit.display import LogFormatter
from alignkit.errors import AlignkitError, InputError, first_line
from alignkit.memory import no_search_for_cycles
from alignkit.pretrained.weights import check_weights

_Loaded = TypeVar("_Loaded")
_TOKENIZER_JSON = "tokenizer.json"
_TOKENIZER_FILES = ("tokenizer.*", "vocab.*", "tekken.json")  # without any, transformers makes an empty tokenizer
_SET_AFTERWARDS = ("pre_tokenizer", "post_processor", "decoder")
_CONTEXT = 2048  # tokens, where a folder names none
_UNUSUAL = "a \U0010fffd"  # in no vocabulary


def quieten() -> None:
    """Turn off transformers' bars and everything it logs below an error, for the rest of the process."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # what peft 0.21 asks for has another name from transformers 5.24 on
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)


def read_config(folder: str | Path, **options: Any) -> Any:
    """Read config.json.

    Args:
        options: settings laid over the folder's own, such as `num_labels`.

    Raises:
        InputError: it is missing, damaged, of an unknown architecture, or wants code of its own.
    """
    from transformers import AutoConfig

    def load() -> Any:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **options)

    config = _loaded(folder, load, "no readable config.json")
    _leave_out_hub_kernels(config)
    return config


def names_model(folder: str | Path) -> bool:
    """Whether there is a config.json for `read_config`; a tokenizer's folder has none, or one without a model type."""
    try:
        content = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError):
        return True
    return not isinstance(content, dict) or "model_type" in content or "architectures" in content


def read_model(kind: Any, folder: str | Path, *, config: Any = None, what: str = "a model", **options: Any) -> Any:
    """Load a model's weights by one of transformers' Auto classes.

    Args:
        kind: AutoModelForCausalLM or one of its like.
        config: as `read_config` gave it; default: the folder's own.
        what: what messages call it: "a causal model".
        options: further ones of `from_pretrained`.

    Raises:
        InputError: the weights are damaged, no safetensors, lie elsewhere, or do not fit config.json.
    """
    if "gguf_file" not in options:  # that one is known by its checksum, and the folder holds no safetensors
        check_weights(Path(folder))
    if config is not None:
        options["config"] = config

    def load() -> Any:
        return kind.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False, **options
        )

    return _loaded(folder, load, f"cannot be loaded as {what}", todo="; it needs config.json and whole safetensors")


def empty_model(kind: Any, folder: str | Path, *, config: Any) -> Any:
    """Make a model of a folder's configuration without weights.

    Raises:
        InputError: its numbers make no model.
    """
    import torch

    def make() -> Any:
        with torch.device("meta"):
            return kind.from_config(config, trust_remote_code=False)

    return _loaded(folder, make, "config.json describes no model")


def read_tokenizer(folder: str | Path, **options: Any) -> Any:
    """Load a tokenizer that can encode any text. Where there is a tokenizer.json, ids are those of that file.

    Raises:
        InputError: it is damaged, wants code of its own, or does not know the token that it has for unknown text.
    """
    from transformers import AutoTokenizer

    def load() -> Any:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, **options
        )
        if "gguf_file" not in options and tokenizer.is_fast and (Path(folder) / _TOKENIZER_JSON).is_file():
            _follow_the_file(tokenizer, Path(folder))
        tokenizer.encode(_UNUSUAL, add_special_tokens=False)
        return tokenizer

    with no_search_for_cycles():  # a vocabulary is read as hundreds of thousands of lists
        return _loaded(folder, load, "no tokenizer that can be loaded")


def load_tokenizer(folder: str | Path) -> Any:
    """Load a fast tokenizer from a local folder.

    Raises:
        InputError: the folder has none, or beside it a config.json that cannot be read.
    """
    if not any(found for pattern in _TOKENIZER_FILES for found in Path(folder).glob(pattern)):
        raise InputError(f"{folder}: no tokenizer in this model folder; copy the tokenizer.json of its model into it")
    try:
        tokenizer = read_tokenizer(folder)
    except InputError as error:
        if "its own code" not in str(error) and names_model(folder):
            read_config(folder)  # transformers reads it first: where it is what is wrong, it is named
        raise
    if not tokenizer.is_fast:
        raise InputError(f"{folder}: the tokenizer has no tokenizer.json; only fast tokenizers are read")
    return tokenizer


def context_length(folder: Path) -> int:
    """Longest sequence a model was made for, in tokens; 2,048 where no file states it, as in a tokenizer's folder.

    Raises:
        InputError: config.json is damaged.
    """
    if not names_model(folder):
        return _CONTEXT
    return named_context(folder, read_config(folder)) or _CONTEXT


def row_limit(folder: Path, max_length: int | None, *, max_new_tokens: int = 0) -> int:
    """Longest row that is trained on, in tokens: `max_length`, else the model's context, at most 2,048.

    Args:
        max_new_tokens: of prompts that are sampled from, tokens of the answers that must fit the context too.

    Raises:
        InputError: config.json is damaged.
    """
    limit = max_length or min(context_length(folder), _CONTEXT)
    return min(limit, context_length(folder) - max_new_tokens) if max_new_tokens else limit


def named_context(folder: Path, config: Any) -> int | None:
    """Longest sequence that a configuration names, in tokens; None where it names none.

    Raises:
        InputError: what it names is not a number of tokens.
    """
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    if found is None:
        return None
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise InputError(f"{folder}/config.json: max_position_embeddings is {found!r}, a number of tokens is needed")
    return found


def _follow_the_file(tokenizer: Any, folder: Path) -> None:
    """Put what tokenizer.json says in place of what transformers made of it.

    The class that transformers picks by the model's type may build a normalizer, a splitting of words and a decoder of
    its own, and takes the vocabulary alone from the file. Where it differs in more than can be set afterwards, the
    file is read whole by the general class, which adds the tokens that tokenizer_config.json names. Padding and cutting
    in the file are left out, because the caller decides them here. A token that only the class names, and neither file,
    is dropped.
    """
    from pydantic_core import from_json
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    own = from_json((folder / _TOKENIZER_JSON).read_bytes(), cache_strings="keys")
    backend = tokenizer.backend_tokenizer
    if type(tokenizer) is not PreTrainedTokenizerFast:
        made = from_json(backend.to_str(), cache_strings="keys")
        if _set_while_reading(made) != _set_while_reading(own):
            general: Any = PreTrainedTokenizerFast.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
            tokenizer._tokenizer = backend = general.backend_tokenizer
    bare = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    parts = {name: own.get(name) for name in _SET_AFTERWARDS}
    file = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": bare} | parts))
    for name in _SET_AFTERWARDS:
        setattr(backend, name, getattr(file, name))
    backend.no_padding()
    backend.no_truncation()
    vocabulary = backend.get_vocab(with_added_tokens=True)
    for name, token in dict(tokenizer.special_tokens_map).items():
        if isinstance(token, str) and token not in vocabulary:
            setattr(tokenizer, name, None)


def _set_while_reading(settings: Mapping[str, Any]) -> list[Any]:
    """The model, the normalizer and the added tokens of a tokenizer.json; merges in the newer of their two spellings.

    A value of the model that is left out, null, false or empty means the same. Added tokens are looked for in
    normalised texts, so a normalizer that is set after them comes too late.
    """
    model = {name: value for name, value in settings["model"].items() if value}
    if "merges" in model:
        model["merges"] = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return [model, settings.get("normalizer"), settings.get("added_tokens")]


def _loaded(folder: str | Path, load: Callable[[], _Loaded], problem: str, *, todo: str = "") -> _Loaded:
    """Run one of transformers' loaders. Whatever it raises is about the folder, except a lack of memory.

    A Rust panic (in tokenizers, of a damaged tokenizer.json) is not an Exception.
    """
    try:
        with _held_back():
            return load()
    except (MemoryError, AlignkitError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if "trust_remote_code" in str(error):
            raise InputError(f"{folder}: the folder wants to run its own code; alignkit never does") from error
        raise InputError(f"{folder}: {problem} ({_named(error)}){todo}") from error


@contextmanager
def _held_back() -> Iterator[None]:
    """Hold back what transformers logs until its loader returns; where it raises, the exception alone says it.

    Its logs repeat texts of the folder. So only errors are logged, and control characters are made visible.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    logger = logging.getLogger("transformers")
    handlers, logger.propagate = list(logger.handlers), False  # it propagates where the environment has CI=true
    held = MemoryHandler(capacity=1_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    logger.handlers = [held]
    try:
        yield
    finally:
        logger.handlers = handlers
    for handler in handlers:
        handler.setFormatter(LogFormatter("[transformers] %(message)s"))
    for record in held.buffer:
        logger.handle(record)


def _named(error: BaseException) -> str:
    """Return an exception's first line, after its name where the line alone says little."""
    line = first_line(error)
    return line if isinstance(error, OSError | ValueError | RuntimeError) else f"{type(error).__name__}: {line}"


def _leave_out_hub_kernels(config: Any) -> None:
    """Forget an attention that the folder wants fetched from the hub ("owner/name"): it is code."""
    for part in (config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", None) or ())):
        for name in ("_attn_implementation_internal", "_experts_implementation_internal"):
            if "/" in str(getattr(part, name, None)):
                setattr(part, name, None)
