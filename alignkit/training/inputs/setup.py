"""Everything before the first step: rows, trees, judges, policy, reference, sampler. Cheap checks come first."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignkit.config.file import Resolved
from alignkit.config.settings import ModelSection
from alignkit.data.chat.chat import Chat, make_chat, refuse_ids_without_rows
from alignkit.data.prepared.selection import Selection
from alignkit.data.prepared.store import Stored
from alignkit.data.reading.rows import Row
from alignkit.data.trees.flat import Lazy
from alignkit.data.trees.mismatched import Mismatched
from alignkit.data.trees.packs import MICRO_BATCH_TOKENS
from alignkit.data.trees.trees import Tree
from alignkit.distributed.fsdp import shard_and_pack
from alignkit.distributed.ranks import ALONE, World
from alignkit.errors import InputError, RunStopped, UsageError
from alignkit.methods import Method, MethodConfig
from alignkit.policy import four_bits
from alignkit.policy.architecture import read_architecture
from alignkit.policy.load import load_policy, refuse_uncomputed
from alignkit.policy.policy import Policy
from alignkit.pretrained.names import ModelSource, find_adapter, find_model
from alignkit.pretrained.read import row_limit
from alignkit.pretrained.weights import folder_fingerprint
from alignkit.rollouts.sampler import Sampler, make_sampler
from alignkit.scoring.default import default_judges
from alignkit.scoring.functions.judge import FunctionJudge
from alignkit.scoring.functions.sources import place_of, sources_sha256
from alignkit.scoring.ledger import judge_sha256
from alignkit.scoring.specs import NamedJudge, distinct, function_file, make_judge
from alignkit.training.gradient.models import Models
from alignkit.training.gradient.optimizer import require_eight_bits
from alignkit.training.gradient.reference import Reference
from alignkit.training.gradient.reference_cache import CachedLogprobs, known_logprobs
from alignkit.training.loop.source import run_rows, source_of
from alignkit.trust import require

if TYPE_CHECKING:
    pass

_logger = logging.getLogger(__name__)


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
    _caches_reference(method, resolved)
    require_eight_bits(resolved.method)
    if resolved.model.quantize is not None:
        four_bits.require(resolved.model.lora_rank)
    _refuse_idle_adapter_options(method, resolved)
    source = find_model(resolved.model.model)
    chat = make_chat(source, resolved.model)
    refuse_untrainable(method, resolved, source, chat)
    named = _named_judges(method, resolved, resolved.rollouts.reward)
    max_length, training, validation = prepare_parts(method, resolved, source, chat)
    judges = _judges(method, resolved, named, training.rows, asks=asks_judges)
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
        _fingerprints(source, chat, training, validation, judges) | _reward_fingerprints(resolved, judges),
        mismatched,
        resolved.data.duplicates == "drop",
        resolved.method.num_prompts,
        resolved.data.limit,
    )


def _refuse_idle_adapter_options(method: Method, resolved: Resolved) -> None:
    """Check that each option of an adapter has one, and that its dropout spoils no comparison.

    Raises:
        UsageError: it does not.
    """
    section = resolved.model
    defaults = ModelSection()
    for name in ("lora_alpha", "lora_dropout", "lora_targets"):
        if section.lora_rank is None and getattr(section, name) != getattr(defaults, name):
            raise UsageError(f"--{name.replace('_', '-')}: no adapter is trained; add --lora-rank 16, or leave it out")
    if section.lora_dropout and not _keeps_dropout(method):
        raise UsageError(
            f"--lora-dropout {section.lora_dropout:g}: {method.name} compares log-probs of other weights or answers, "
            "which dropout would spoil; leave it out"
        )


def on_adapter(method: Method, resolved: Resolved) -> Resolved:
    """Return the options with the shape of the adapter that training goes on from, where --model names one.

    A method with a head of its own trains on base and adapter merged, as on any other model.

    Raises:
        UsageError: another shape was given, or 4 bits.
        InputError: as `find_adapter`.
    """
    if "scalar_head" in method.needs or (adapter := find_adapter(resolved.model.model)) is None:
        return resolved
    section, defaults = resolved.model, ModelSection()
    own = {"lora_rank": adapter.rank, "lora_alpha": adapter.alpha, "lora_targets": list(adapter.targets)}
    for name, value in own.items():
        if getattr(section, name) not in (value, getattr(defaults, name)):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{flag}: training goes on from the adapter {adapter.folder}, whose {flag} is {value}; leave it out, "
                f"or merge it first: alignkit export {adapter.folder} --to DIR"
            )
    if section.quantize is not None:
        raise UsageError(
            f"--quantize {section.quantize}: not under an adapter that was trained before; leave it out, or merge it "
            f"first: alignkit export {adapter.folder} --to DIR"
        )
    return replace(resolved, model=section.model_copy(update=own))


def reference_is_base(method: Method, resolved: Resolved) -> bool:
    """Whether the reference is what lies under the adapter that is trained: of a new one."""
    has_adapter = resolved.model.lora_rank is not None
    return has_adapter and ("scalar_head" in method.needs or find_adapter(resolved.model.model) is None)


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


def load_models(method: Method, resolved: Resolved, inputs: Inputs, world: World = ALONE) -> Models:
    """Load the policy, its frozen reference where the method needs one, and the sampler; whole, on every rank."""
    section = resolved.model
    options = _load_options(method, resolved)
    folder, adapter = _trained_folders(method, inputs)
    policy = load_policy(
        folder,
        adapter=adapter,
        lora_rank=section.lora_rank,
        lora_alpha=section.lora_alpha,
        lora_dropout=section.lora_dropout,
        lora_targets=section.lora_targets,
        gradient_checkpointing=section.gradient_checkpointing,
        in_four_bits=section.quantize is not None,
        dropout=_keeps_dropout(method),
        **options,
    )
    refuse_uncomputed(policy, inputs.source.folder)
    capacity = section.micro_batch_tokens or MICRO_BATCH_TOKENS
    reference = None
    if needs_reference(method, resolved):
        reference = _reference(method, resolved, inputs, policy, options, capacity=capacity, world=world)
    sampler = make_sampler(resolved.rollouts.sampler, policy, inputs.chat, gpu_memory=resolved.rollouts.vllm_memory)
    sampler.connect(resolved.rollouts.servers, resolved.rollouts.server_weights)
    if method.draws():
        _refuse_long_prompts(sampler, inputs, resolved.method.max_new_tokens)
    return Models(policy, reference, sampler, micro_batch_tokens=capacity)


def load_start(method: Method, resolved: Resolved, inputs: Inputs, go_on: Callable[[], str]) -> Policy:
    """Load the policy as it was before the first step once more, on the CPU.

    Raises:
        RunStopped: its weights on disk are no longer those that the run began with.
    """
    import torch

    whole = inputs.source.folder
    if folder_fingerprint(whole) != inputs.fingerprints["model"]:
        raise RunStopped(
            f"{whole}: the weights that the run began with changed since, and no validation was better than "
            f"theirs; put them back and go on with: {go_on()}"
        )
    folder, adapter = _trained_folders(method, inputs)
    return load_policy(folder, adapter=adapter, device=torch.device("cpu"), **_load_options(method, resolved))


def _trained_folders(method: Method, inputs: Inputs) -> tuple[Path, Path | None]:
    """The model that is trained, and the adapter on it that training goes on from."""
    source = inputs.source
    if source.adapter is None or source.base is None or "scalar_head" in method.needs:
        return source.folder, None
    return source.base, source.adapter.folder


def _load_options(method: Method, resolved: Resolved) -> dict[str, Any]:
    """What the policy and the reference are loaded with alike."""
    return {
        "precision": resolved.model.precision,
        "attention": resolved.model.attention,
        "scalar_head": "scalar_head" in method.needs,
        "seed": resolved.method.seed,
        "compiled": resolved.model.compile,
    }


def _keeps_dropout(method: Method) -> bool:
    """Whether training drops out as the model came: only where no log-prob is compared with that of other weights.

    A reference, a sampler and the other completion of a pair know nothing of the units that a pass dropped.
    """
    compares = "reference" in method.needs or len(method.trains_on.completions) != 1
    return not compares and not method.draws()


def _refuse_long_prompts(sampler: Sampler, inputs: Inputs, max_new_tokens: int) -> None:
    if sampler.max_length is None:
        return
    room = sampler.max_length - max_new_tokens
    long = [t.row_id for part in (inputs.training, inputs.validation) for t in part.trees if len(t.prompt) > room]
    if long:
        raise InputError(
            f"{len(long)} prompts leave no room for --max-new-tokens {max_new_tokens} in the {sampler.max_length:,} "
            f"tokens that --sampler {sampler.name} takes (rows {', '.join(long[:5])}{', ...' if long[5:] else ''}): "
            "lower it, leave those rows out, or use --sampler transformers"
        )


def _reference(
    method: Method,
    resolved: Resolved,
    inputs: Inputs,
    policy: Policy,
    options: Mapping[str, Any],
    *,
    capacity: int,
    world: World,
) -> Reference:
    """Make the reference; where its log-probs are cached, `policy` still has the reference's weights here."""

    def load() -> Policy:
        return load_policy(inputs.source.folder, **options)

    is_base = reference_is_base(method, resolved)
    if not _caches_reference(method, resolved):
        return Reference(policy, frozen=None if is_base else load())

    def know(policy: Policy) -> list[CachedLogprobs]:
        parts: list[tuple[Sequence[Tree], list[list[int]]]] = []
        for training, validation in inputs.tree_parts():
            by_step = source_of(training, resolved.method, micro_batch_tokens=capacity, world=world)
            validated, is_padding = shard_and_pack(validation, capacity, world)
            parts += [(training, list(by_step.from_step(1))), (validation, [] if is_padding else validated)]
        weights = inputs.fingerprints["model"] + (resolved.model.quantize or "")
        policy.eval()
        with policy.base_weights() if policy.starts_at_base else nullcontext():  # nothing is trained yet
            known = [
                known_logprobs(policy, trees, weights=weights, capacity=capacity, rows=rows, world=world)
                for trees, rows in parts
            ]
        policy.train()
        return known

    return Reference(policy, load=None if is_base else load, know=know)


def needs_reference(method: Method, resolved: Resolved) -> bool:
    """Whether the frozen reference is there in training: not where no loss reads it, unless it is asked for by name."""
    asked = resolved.model.reference is not None
    return "reference" in method.needs and (asked or resolved.method.reads_reference)


def _caches_reference(method: Method, resolved: Resolved) -> bool:
    """Whether the reference's log-probs are computed before the first step.

    Raises:
        UsageError: reference was given to a method that reads none, or cached to one that trains on samples.
    """
    asked = resolved.model.reference
    if asked is not None and "reference" not in method.needs:
        raise UsageError(f"--set reference={asked}: {method.name} has no reference; leave it out")
    if asked == "cached" and method.trains_on.is_sampled:
        raise UsageError(f"--set reference=cached: {method.name}'s samples are not known beforehand; leave it out")
    return "reference" in method.needs and not method.trains_on.is_sampled and asked != "online"


def _named_judges(method: Method, resolved: Resolved, specs: Sequence[str]) -> tuple[NamedJudge, ...]:
    """Make the judges that rewards name; their files are imported, and refused where they cannot be used."""
    if not method.trains_on.is_sampled:
        return ()
    judges = distinct([make_judge(spec, resolved, named_at=("rollouts", "reward")) for spec in specs])
    for named in judges:
        if named.judge.pairwise:
            raise UsageError(f"reward {named.label!r} compares two answers, it gives none a score: name it by --judge")
    if judges and not any(named.weight for named in judges):
        raise UsageError("every --reward has the weight 0: nothing would be learnt; give one another weight")
    return judges


def _judges(
    method: Method, resolved: Resolved, named: tuple[NamedJudge, ...], rows: Sequence[Row], *, asks: bool
) -> tuple[NamedJudge, ...]:
    """The named judges, or the rows' default one, once they can score these rows."""
    if not method.trains_on.is_sampled:
        return ()
    fields = [row.fields for row in rows]
    if not named:
        spec = _default_reward(fields)
        _logger.info("reward: %s", spec)
        named = _named_judges(method, resolved, [spec])
    for one in named if asks else ():
        if one.judge.paid:
            one.judge.check_key()  # its address is asked after the cost was agreed to
        else:
            one.ready(rows)
    return named


def _default_reward(rows: Sequence[Mapping[str, Any]]) -> str:
    """The SPEC of the judge that is taken where none is named (scoring/default.py)."""
    for judge in default_judges(rows, role="reward"):
        return judge.default_spec()
    raise UsageError(
        "no reward: the rows carry no rules and none was named; give --reward FILE.py:function (your own), --reward "
        "RUN (a reward model: alignkit train reward), or rows with rules"
    )


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


def reward_fingerprints(resolved: Resolved) -> dict[str, str]:
    """Hashes of the reward files and of what they import, without running them."""
    fingerprints: dict[str, str] = {}
    for path in dict.fromkeys(filter(None, map(function_file, resolved.rollouts.reward))):
        name = path.name if f"reward {path.name}" not in fingerprints else str(path)
        fingerprints[f"reward {name}"] = sources_sha256(place_of(path))
    return fingerprints


def _reward_fingerprints(resolved: Resolved, judges: Sequence[NamedJudge]) -> dict[str, str]:
    """What gives the rewards: files by their content, judges by everything that decides their scores."""
    others = [named for named in judges if not isinstance(named.judge, FunctionJudge)]
    return reward_fingerprints(resolved) | {
        f"reward {n.label}": judge_sha256(n.judge.name, n.judge.version, n.judge.parameters()) for n in others
    }
