"""Everything before the first step: rows, trees, judges, policy, reference, sampler. Cheap checks come first."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.config_file import Resolved
from alignkit.data.chat import Chat
from alignkit.data.read import read_rows
from alignkit.data.rows import Row
from alignkit.data.tokens import Prepared, prepare
from alignkit.errors import UsageError
from alignkit.methods import Method
from alignkit.policy.chat_settings import context_length, make_chat
from alignkit.policy.load import load_policy
from alignkit.policy.names import ModelSource, find_model
from alignkit.policy.policy import Policy
from alignkit.policy.reference import Reference
from alignkit.registry import registry
from alignkit.rollouts.sampler import Sampler
from alignkit.scoring.specs import NamedJudge, make_judge
from alignkit.training.order import split_rows

_logger = logging.getLogger(__name__)
ROW_CAPACITY = 4096  # tokens


@dataclass(frozen=True)
class Inputs:
    """What a run needs before its model is loaded."""

    source: ModelSource
    chat: Chat
    max_length: int
    training: Prepared
    validation: Prepared
    judges: tuple[NamedJudge, ...]
    fingerprints: Mapping[str, str]


@dataclass(frozen=True)
class Models:
    """What a run computes with."""

    policy: Policy
    reference: Reference | None
    sampler: Sampler


def read_inputs(method: Method, resolved: Resolved) -> Inputs:
    """Find the model, read and split the rows, make their trees, and check that the judges can score.

    Raises:
        AlignkitError: anything of it cannot be used; nothing was written.
    """
    source = find_model(resolved.model.model)
    chat = make_chat(source, resolved.model)
    section, config = resolved.data, resolved.method
    max_length = section.max_length or min(context_length(source.folder), 2048)
    rows = read_rows(section.data, columns=section.columns, limit=section.limit)
    parts = split_rows([prompt_key(row) for row in rows], section.split, seed=0)
    training_rows, validation_rows = ([rows[n] for n in part] for part in parts)
    training_rows = _drawn(training_rows, config.num_prompts, config.seed)
    draws = type(method).temperatures is not Method.temperatures  # samples need a prompt to answer
    train_on = "last" if draws else section.train_on
    longest_prompt = (
        max_length if method.trains_on != "samples" else context_length(source.folder) - config.max_new_tokens
    )
    options: dict[str, Any] = {
        "trains_on": method.trains_on,
        "max_length": min(max_length, longest_prompt) if method.trains_on == "samples" else max_length,
        "truncation": section.truncation,
        "max_skipped": section.max_skipped,
        "train_on": train_on,
        "whole_answer": "scalar_head" in method.needs,
    }
    training = prepare(training_rows, chat, **options)
    validation = (
        prepare(validation_rows, chat, **options | {"max_skipped": 1.0}) if validation_rows else Prepared([], [])
    )
    judges = _judges(method, resolved, training.rows)
    return Inputs(
        source,
        chat,
        max_length,
        training,
        validation,
        judges,
        _fingerprints(source, chat, training, validation, resolved),
    )


def load_models(method: Method, resolved: Resolved, inputs: Inputs) -> Models:
    """Load the policy, its frozen reference where the method needs one, and the sampler."""
    section = resolved.model
    options: dict[str, Any] = {
        "precision": section.precision,
        "attention": section.attention,
        "scalar_head": "scalar_head" in method.needs,
        "seed": resolved.method.seed,
    }
    policy = load_policy(inputs.source.folder, lora_rank=section.lora_rank, **options)
    reference = None
    if "reference" in method.needs:
        frozen = None if section.lora_rank is not None else load_policy(inputs.source.folder, **options)
        reference = Reference(policy, frozen=frozen)
    return Models(policy, reference, make_sampler(resolved.rollouts.sampler, policy, inputs.chat))


def make_sampler(name: str, policy: Policy, chat: Chat) -> Sampler:
    """Make the sampler of that name for a policy."""
    cls = registry().find("sampler", name)
    assert issubclass(cls, Sampler)
    return cls(policy, end_ids=chat.end_ids)


def prompt_key(row: Row) -> str:
    """A key that rows with the same prompt share."""
    return hashlib.sha256(json.dumps(row.prompt).encode()).hexdigest()


def _drawn(rows: list[Row], num_prompts: int | None, seed: int) -> list[Row]:
    if num_prompts is None or num_prompts >= len(rows):
        return rows
    chosen = np.random.Generator(np.random.Philox(key=seed)).choice(len(rows), num_prompts, replace=False)
    return [rows[number] for number in sorted(chosen)]


def _judges(method: Method, resolved: Resolved, rows: Sequence[Row]) -> tuple[NamedJudge, ...]:
    if method.trains_on != "samples":
        return ()
    fields = [row.fields for row in rows]
    specs = list(resolved.rollouts.reward)
    if not specs:
        specs = [_default_reward(fields)]
        _logger.info("reward: %s", specs[0])
    judges = tuple(make_judge(spec, resolved.judges) for spec in specs)
    for named in judges:
        if named.judge.pairwise:
            raise UsageError(f"reward {named.label!r} compares two answers, it gives none a score: name it by --judge")
        named.judge.ready(fields)
    return judges


def _default_reward(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows' own rules, else the paper's reward model where it can be reached."""
    judges = registry().names("judge")
    if "rules" in judges and any(row.get("rules") for row in rows):
        return "rules"
    if "nemotron" in judges and os.environ.get("NVIDIA_API_KEY"):
        return "nemotron"
    raise UsageError(
        "no reward: the rows carry no rules and none was named; give --reward FILE.py:function (your own), --reward "
        "RUN (a reward model: alignkit train reward), or rows with rules"
    )


def _fingerprints(
    source: ModelSource, chat: Chat, training: Prepared, validation: Prepared, resolved: Resolved
) -> dict[str, str]:
    """Hashes of what a resume must find unchanged."""
    data = hashlib.sha256()
    for part in (training, validation):
        for tree in part.trees:
            data.update(tree.row_id.encode())
            for segment in tree.segments:
                data.update(segment.ids.tobytes() + segment.scored.tobytes())
    model = hashlib.sha256()
    for file in sorted(source.folder.glob("*.safetensors")):
        with open(file, "rb") as opened:
            model.update(hashlib.file_digest(opened, "sha256").digest())
    fingerprints = {
        "model": model.hexdigest(),
        "data": data.hexdigest(),
        "template": hashlib.sha256(chat.template.encode()).hexdigest(),
    }
    for spec in resolved.rollouts.reward:
        file = Path(spec.rpartition(":")[0])
        if file.suffix == ".py" and file.is_file():
            fingerprints[f"reward {file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return fingerprints
