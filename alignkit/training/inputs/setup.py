"""What a run needs before its weights are loaded: the model's folder, rows, trees, judges. Cheap checks come first."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from alignkit.config.file import Resolved
from alignkit.data.chat.chat import Chat, make_chat, refuse_ids_without_rows
from alignkit.data.prepared.selection import Selection
from alignkit.data.prepared.store import Stored
from alignkit.data.trees.flat import Lazy
from alignkit.data.trees.mismatched import Mismatched
from alignkit.data.trees.trees import Tree
from alignkit.errors import UsageError
from alignkit.methods import Method, MethodConfig
from alignkit.policy import four_bits
from alignkit.policy.architecture import read_architecture
from alignkit.pretrained.names import ModelSource, find_model
from alignkit.pretrained.read import row_limit
from alignkit.pretrained.weights import folder_fingerprint
from alignkit.scoring.specs import NamedJudge
from alignkit.training.gradient.optimizer import require_eight_bits
from alignkit.training.inputs.judges import fingerprints_of, named_judges, ready_judges
from alignkit.training.inputs.model_options import caches_reference, refuse_idle_adapter_options
from alignkit.training.loop.source import run_rows
from alignkit.trust import require


@dataclass(frozen=True)
class Inputs:
    """What a run needs before its model is loaded."""

    source: ModelSource
    chat: Chat
    max_length: int
    training: Stored
    validation: Stored
    judges: tuple[NamedJudge, ...]
    fingerprints: Mapping[str, str]
    mismatched: tuple[Mismatched, Mismatched] | None = None
    """Of a method that needs them, the training and the validation prompts with answers to others."""
    drops_duplicates: bool = False
    num_prompts: int | None = None
    limit: int | None = None

    def tree_parts(self) -> list[tuple[Lazy[Tree], Lazy[Tree]]]:
        """All that a step or a validation computes: training and validation trees; and the mismatched ones."""
        own: tuple[Lazy[Tree], Lazy[Tree]] = (self.training.trees, self.validation.trees)
        return [own] if self.mismatched is None else [own, self.mismatched]

    @property
    def training_mismatched(self) -> Mismatched | None:
        """The training prompts with answers to others, where the method needs them."""
        return None if self.mismatched is None else self.mismatched[0]

    @property
    def longest(self) -> int:
        """Tokens of the longest tree that a step computes."""
        trees = [self.training.trees.lengths()]
        if self.training_mismatched is not None:
            trees.append(self.training_mismatched.lengths())
        return int(max(lengths.max() for lengths in trees))


def read_inputs(method: Method, resolved: Resolved, *, asks_judges: bool = True) -> Inputs:
    """Find the model, read and split the rows, make their trees, and check that the judges can score.

    Args:
        asks_judges: of several ranks the first alone.

    Raises:
        AlignkitError: anything of it cannot be used; nothing was written.
    """
    if resolved.rollouts.sampler != "transformers":
        require(resolved, ("rollouts", "servers"), ("rollouts", "server_weights"))
    require(resolved, ("train", method.name))
    caches_reference(method, resolved)
    require_eight_bits(resolved.method)
    if resolved.model.quantize is not None:
        four_bits.require(resolved.model.lora_rank)
    refuse_idle_adapter_options(method, resolved)
    source = find_model(resolved.model.model)
    chat = make_chat(source, resolved.model)
    refuse_untrainable(method, resolved, source, chat)
    named = named_judges(method, resolved, resolved.rollouts.reward)
    max_length, training, validation = prepare_parts(method, resolved, source, chat)
    judges = ready_judges(method, resolved, named, training.rows, asks=asks_judges)
    mismatched = None
    if "mismatched_kl" in method.needs:
        mismatched = _mismatched(training, validation, resolved.method, max_length)
    return Inputs(
        source,
        chat,
        max_length,
        training,
        validation,
        judges,
        _fingerprints(source, chat, training, validation, judges) | fingerprints_of(resolved, judges),
        mismatched,
        resolved.data.duplicates == "drop",
        resolved.method.num_prompts,
        resolved.data.limit,
    )


def refuse_untrainable(method: Method, resolved: Resolved, source: ModelSource, chat: Chat) -> None:
    """Check by its configuration that a model can be trained, before its data are prepared.

    Raises:
        InputError: its architecture is not computed, or its tokenizer has more ids than its embedding has rows.
        UsageError: --quantize, and it has no layer to be held in 4 bits; --max-length, and it has fewer positions.
    """
    found = read_architecture(source.folder, scalar_head="scalar_head" in method.needs)
    refuse_ids_without_rows(chat, found.vocab, source.folder)
    if resolved.model.quantize is not None and not found.num_narrow:
        raise UsageError(
            f"--quantize {resolved.model.quantize}: {source.folder}: no layer of a {found.model_type} model can "
            "be held in 4 bits; leave it out"
        )
    longest = resolved.data.max_length
    if found.positions is not None and longest is not None and longest > found.positions:
        raise UsageError(
            f"--max-length {longest}: {source.folder} has a table of {found.positions} positions; lower it"
        )


def prepare_parts(
    method: Method, resolved: Resolved, source: ModelSource, chat: Chat, *, shard: tuple[int, int] | None = None
) -> tuple[int, Stored, Stored]:
    """Return the longest row in tokens, the training rows and the validation rows, or one shard (i, n) of them.

    Raises:
        AlignkitError: the rows cannot be read or used.
    """
    section, config = resolved.data, resolved.method
    max_length = row_limit(source.folder, section.max_length)
    draws = method.draws()  # samples need a prompt to answer
    if section.train_on == "all-assistant" and (draws or not method.trains_on.may_score_all_turns):
        raise UsageError(
            f"--train-on all-assistant: {method.name} trains on the last answer alone; leave it out, or use sft"
        )
    train_on = "last" if draws else section.train_on
    max_new_tokens = config.max_new_tokens if method.trains_on.is_sampled else 0
    options: dict[str, Any] = {
        "unit": config.unit(method.trains_on),
        "max_length": row_limit(source.folder, section.max_length, max_new_tokens=max_new_tokens),
        "train_on": train_on,
        "whole_answer": "scalar_head" in method.needs,
    }
    pairs = options["unit"].compares
    selection = Selection(section, num_prompts=config.num_prompts, seed=config.seed, pairs=pairs)
    training = selection.prepare("training", chat, options, shard=shard)
    validation = selection.prepare("validation", chat, options, shard=shard)
    return max_length, training, validation


def _mismatched(
    training: Stored, validation: Stored, config: MethodConfig, max_length: int
) -> tuple[Mismatched, Mismatched]:
    """Give the rows of each step answers to other prompts, and the validation rows as if they were one step.

    Raises:
        InputError: all training rows have the same prompt.
    """
    own, held = training.trees, validation.trees
    make = partial(Mismatched, seed=config.seed, max_length=max_length)
    return make(own, run_rows(len(own), config)), make(held, [np.arange(len(held))], others=own)


def _fingerprints(
    source: ModelSource, chat: Chat, training: Stored, validation: Stored, judges: Sequence[NamedJudge]
) -> dict[str, str]:
    """Hashes of what a resume must find unchanged: of rows the tokens, and where rewards read them every column."""
    data = [training.fingerprint, validation.fingerprint]
    if judges:
        data += [training.content, validation.content]
    return {
        "model": folder_fingerprint(source.folder),
        "data": hashlib.sha256(" ".join(data).encode()).hexdigest(),
        "template": hashlib.sha256(chat.template.encode()).hexdigest(),
    }
