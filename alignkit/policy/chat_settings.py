"""A model folder's chat template and context, with the settings of the run it came from."""

from __future__ import annotations

import json
from pathlib import Path

from alignkit.config import ModelSection
from alignkit.data.chat import Chat
from alignkit.data.tokens import load_tokenizer
from alignkit.errors import InputError
from alignkit.policy.names import ModelSource


def make_chat(source: ModelSource, section: ModelSection) -> Chat:
    """Load the tokenizer and its template with a run's settings.

    System message and template values of the run a model came from hold where `section` names none.
    """
    system, template_kwargs = section.system, section.template_kwargs
    if source.run is not None:
        inherited = json.loads((source.run / "run.json").read_text(encoding="utf-8"))["config"]["model"]
        system = inherited.get("system") if system is None else system
        template_kwargs = template_kwargs or inherited.get("template_kwargs") or {}
    tokenizer = load_tokenizer(source.folder)
    return Chat(tokenizer, template=section.chat_template, system=system, template_kwargs=template_kwargs)


def context_length(folder: Path) -> int:
    """Longest sequence the model was made for, in tokens.

    Raises:
        InputError: config.json is missing or not JSON.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: no readable config.json: {error}") from error
    config = config.get("text_config", config)
    return int(config.get("max_position_embeddings") or config.get("n_positions") or 2048)
