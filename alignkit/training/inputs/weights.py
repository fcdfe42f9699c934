"""Loads a run's weights: the policy, its frozen reference where there is one, and the sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from alignkit.config.file import Resolved
from alignkit.data.trees.packs import MICRO_BATCH_TOKENS
from alignkit.data.trees.trees import Tree
from alignkit.distributed.fsdp import shard_and_pack
from alignkit.distributed.ranks import ALONE, World
from alignkit.errors import InputError, RunStopped
from alignkit.methods import Method
from alignkit.policy.load import load_policy, refuse_uncomputed
from alignkit.policy.policy import Policy
from alignkit.pretrained.weights import folder_fingerprint
from alignkit.rollouts.sampler import Sampler, make_sampler
from alignkit.training.gradient.models import Models
from alignkit.training.gradient.reference import Reference
from alignkit.training.gradient.reference_cache import CachedLogprobs, known_logprobs
from alignkit.training.inputs.model_options import caches_reference, keeps_dropout, needs_reference, reference_is_base
from alignkit.training.inputs.setup import Inputs
from alignkit.training.loop.source import source_of


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
        dropout=keeps_dropout(method),
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
    if not caches_reference(method, resolved):
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
