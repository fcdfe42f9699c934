"""A model folder's chat template and context, with the settings of the run it came from."""

from __future__ import annotations

from pathlib import Path

from alignkit.config.settings import ModelSection
from alignkit.data.chat.chat import Chat
from alignkit.data.prepared.tokens import load_tokenizer
from alignkit.errors import InputError
from alignkit.policy import architecture
from alignkit.pretrained.names import ModelSource
from alignkit.pretrained.read import names_model
from alignkit.runs import read_run

_CONTEXT = 2048  # tokens, where a folder names none


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
    """Longest sequence the model was made for, in tokens; 2,048 where nothing says so, as in a tokenizer's folder.

    Raises:
        InputError: config.json is damaged.
    """
    if not names_model(folder):
        return _CONTEXT
    return architecture.context_length(folder) or _CONTEXT


def refuse_ids_without_rows(chat: Chat, rows: int, folder: Path) -> None:
    """Check that each id of a model's tokenizer has a row in its embedding.

    Args:
        rows: of the embedding.

    Raises:
        InputError: there are more ids.
    """
    highest = max(chat.tokenizer.get_vocab().values(), default=0)
    if highest >= rows:
        raise InputError(
            f"{folder}: the tokenizer has ids up to {highest}, the embedding {rows} rows; take "
            f"the model's own tokenizer, or give the model more rows (model.resize_token_embeddings({highest + 1}))"
        )
