"""A model folder that scores conversations: its kind of head, its hash, and the token ids that it reads.

    sequence   *ForSequenceClassification of one label: a linear head at the last token
    token      Qwen2ForRewardModel, InternLM2ForRewardModel: a two-layer head at every token; the last token's counts
    logit      a causal model whose reward is one token's logit at the position after the conversation

The conversation is the template's full rendering without a generation prompt, as `alignkit train reward` makes it: the
prompt's ids, then the answer's, with everything that the template puts after it. No special token is added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from alignkit.plugin import InputError, Item, UsageError, read_object

if TYPE_CHECKING:
    from alignkit.plugin import Chat, ModelSource

Head = Literal["sequence", "token", "logit"]
TWO_LAYERS = ("Qwen2ForRewardModel", "InternLM2ForRewardModel")
_HASHED = (".safetensors", ".json", ".jinja", ".txt", ".model")
_MAKE_ONE = "make one with: alignkit train reward --data PAIRS"


class RewardFolder:
    """One reward model's files.

    Args:
        model: a run, a folder or a hub name; None takes the newest finished reward run under runs/.
        judge: the judge's name in messages.

    Raises:
        UsageError: no model is named, and there is no reward run.
        InputError: there is no such model.
    """

    def __init__(self, model: str | None, *, judge: str) -> None:
        from alignkit.plugin import find_model, newest_run

        if model is None:
            run = newest_run(method="reward")
            if run is None:
                raise UsageError(
                    f"judge {judge!r} needs a model: set model in [judge.{judge}], or train one: alignkit train reward"
                )
            model = str(run)
        self.source: ModelSource = find_model(model)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """config.json."""
        return read_object(self.source.folder / "config.json")

    @property
    def architectures(self) -> list[str]:
        names = self.config.get("architectures") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{self.source.folder / 'config.json'}: architectures is no list of names")
        return names

    def head(self, *, logit_of_token: int | None = None) -> Head:
        """Return which kind of head scores.

        Args:
            logit_of_token: the id whose logit is the reward, where the user names one.

        Raises:
            InputError: the folder is not a reward model, or has several labels.
        """
        folder, names = self.source.folder, ", ".join(self.architectures) or "this"
        if logit_of_token is not None:
            if not names.endswith("ForCausalLM"):
                raise InputError(f"{folder}: {names} has no logits of tokens; leave logit_of_token out")
            return "logit"
        if any(name in TWO_LAYERS for name in self.architectures):
            return "token"
        if not names.endswith("ForSequenceClassification"):
            raise InputError(
                f"{folder}: {names} is no reward model (a sequence classification of one label); {_MAKE_ONE}"
            )
        names_of_labels = self.config.get("id2label") or (0, 1)
        labels = self.config.get("num_labels") or (len(names_of_labels) if isinstance(names_of_labels, dict) else 2)
        if labels != 1:
            raise InputError(
                f"{folder}: a classifier of {labels} labels is no reward model, which has one; {_MAKE_ONE}"
            )
        return "sequence"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights, tokenizer, template and settings; shards may lie in folders of their own.

        Raises:
            InputError: as `weight_files` raises it.
        """
        from alignkit.plugin import weight_files

        folder, digest = self.source.folder, hashlib.sha256()
        for file in sorted(
            {file for file in folder.iterdir() if file.suffix in _HASHED} | set(weight_files(folder).values())
        ):
            with open(file, "rb") as opened:
                name = file.relative_to(folder).as_posix()
                digest.update(f"{name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\0".encode())
        return digest.hexdigest()

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """Hash of tokenizer, template and settings, without weights."""
        from alignkit.plugin import settings_fingerprint

        return settings_fingerprint(self.source.folder)

    @cached_property
    def chat(self) -> Chat:
        """The folder's chat template.

        Raises:
            InputError: it has none.
        """
        from alignkit.plugin import ModelSection, make_chat

        return make_chat(self.source, ModelSection())

    @cached_property
    def max_length(self) -> int:
        """The longest conversation that it takes, in tokens."""
        from alignkit.plugin import context_length

        return context_length(self.source.folder)

    def prompt_ids(self, prompt: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the token ids of the conversation before the scored answer."""
        return self.chat.prompt_ids(_for_another(prompt))

    def answer_ids(self, item: Item) -> list[int]:
        """Return the token ids that the completion adds, to the end of the rendering."""
        return self.chat.answer_ids(_for_another(item.prompt), [{"role": "assistant", "content": item.completion}])


def _for_another(prompt: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A prompt without what is meant for the policy's template: a row's own values, and thoughts."""
    ours = ("template_values", "reasoning_content")
    return [{name: value for name, value in message.items() if name not in ours} for message in prompt]


def conversation(item: Item) -> dict[str, Any]:
    """Return what a reward model reads of an item, for the ledger's key."""
    prompt = [[m["role"], m["content"], *([dict(m)] if len(m) > 2 else [])] for m in item.prompt]
    return {"prompt": prompt, "completion": item.completion}
