"""A model folder's chat template and context, with the settings of the run it came from."""

from __future__ import annotations

from pathlib import Path

from alignkit.config import ModelSection
from alignkit.data.chat import Chat
from alignkit.data.tokens import load_tokenizer
from alignkit.errors import InputError
from alignkit.policy.names import ModelSource
from alignkit.runs import read_run
from alignkit.storage import read_object


def make_chat(source: ModelSource, section: ModelSection) -> Chat:
    """Load the tokenizer and its template with a run's settings.

    System message and template values of the run a model came from hold where `section` names none.
    """
    system, template_kwargs = section.system, section.template_kwargs
    if source.run is not None:
        inherited = read_run(source.run).config.model
        system = inherited.system if system is None else system
        template_kwargs = template_kwargs or inherited.template_kwargs or {}
    tokenizer = load_tokenizer(source.folder)
    return Chat(tokenizer, template=section.chat_template, system=system, template_kwargs=template_kwargs)


def context_length(folder: Path) -> int:
    """Longest sequence the model was made for, in tokens; of a tokenizer without a model, 2,048.

    Raises:
        InputError: config.json is missing or damaged.
    """
    if not (folder / "config.json").exists() and (folder / "tokenizer.json").exists():
        return 2048
    config = read_object(folder / "config.json")
    text = config.get("text_config", config)
    length = (
        (text.get("max_position_embeddings") or text.get("n_positions") or 2048) if isinstance(text, dict) else None
    )
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise InputError(f"{folder / 'config.json'}: no readable context length: max_position_embeddings is {length!r}")
    return length
