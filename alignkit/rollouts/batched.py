"""Batched generation with a KV cache, reading the policy's weights directly.

Every completion has its own temperature, top-p and random stream (Philox keyed by its seed, one uniform number per
token, inverse cumulative probability), so that in fp32 it does not depend on what it is batched with. A prompt asked
for several times is computed once. B slots of a batch, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from alignkit.policy.architecture import cache_argument
from alignkit.policy.policy import Policy
from alignkit.progress import phase
from alignkit.rollouts.decoding import grouped_attention, make_cache
from alignkit.rollouts.picking import Rules, pick, uniform_numbers
from alignkit.rollouts.sampler import Completion, Request
from alignkit.rollouts.static import StaticDecoding

if TYPE_CHECKING:
    from transformers import DynamicCache

MAX_BATCH = 64
_COMPACT_BELOW = 0.75  # slots that are finished leave the batch when fewer than this share is left


@dataclass
class DecodeSlot:
    """One completion while it is generated: its place in a batch."""

    number: int
    request: Request
    uniform: np.ndarray | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class BatchedGeneration:
    """Samples completions from a policy on its device; `end_ids` end a completion and belong to it."""

    def __init__(self, policy: Policy, *, end_ids: frozenset[int]) -> None:
        self.policy = policy
        self.end_ids = end_ids

    def generate(
        self, requests: Sequence[Request], *, seen: Callable[[Sequence[int]], None] | None = None
    ) -> list[Completion]:
        """Return one completion for each request, in order; batches hold requests of like prompt length.

        Args:
            seen: is given all ids of a completion so far, after each token.
        """
        done: dict[int, Completion] = {}
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), requests[i].prompt_ids, i))
        with self.generating():
            if requests and self.policy.device.type == "cuda" and self.policy.tree_refusal is None and seen is None:
                return self._by_graphs(requests, order)
            with phase("sampling", len(requests)) as count:
                for at in range(0, len(order), MAX_BATCH):
                    slots = [_slot(number, requests[number]) for number in order[at : at + MAX_BATCH]]
                    done |= self._batch(slots, seen)
                    count(len(slots))
        return [done[number] for number in range(len(requests))]

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Everything that is set while tokens are generated."""
        policy = self.policy
        was_training = policy.training
        policy.eval()
        try:
            # computing(): bf16 weights are cast once for all steps
            with torch.no_grad(), policy.on_path("plain"), grouped_attention(policy), policy.computing():
                yield
        finally:
            policy.train(was_training)

    def _by_graphs(self, requests: Sequence[Request], order: Sequence[int]) -> list[Completion]:
        decoding = StaticDecoding(self.policy, end_ids=self.end_ids, capture=True)
        drawn = decoding.generate([requests[n] for n in order], [self._room(requests[n]) for n in order])
        del decoding
        torch.cuda.empty_cache()  # what graphs computed in can be used by nothing else
        return [completion for _, completion in sorted(zip(order, drawn, strict=True), key=itemgetter(0))]

    def _batch(self, slots: list[DecodeSlot], seen: Callable[[Sequence[int]], None] | None) -> dict[int, Completion]:
        done: dict[int, Completion] = {}
        logits, cache, mask = self._prefill(slots)
        while True:
            picked = _pick(logits, slots)
            alive = []
            for place, (slot, (token, logprob)) in enumerate(zip(slots, picked, strict=True)):
                slot.ids.append(token)
                slot.logprobs.append(logprob)
                if seen is not None:
                    seen(slot.ids)
                ended = token in self.end_ids
                if ended or len(slot.ids) >= self._room(slot.request):
                    done.setdefault(slot.number, _completion(slot, truncated=not ended))
                if slot.number not in done:
                    alive.append(place)
            if not alive:
                return done
            if len(alive) < _COMPACT_BELOW * len(slots):
                keep = torch.tensor(alive, device=mask.device)
                slots, mask = [slots[place] for place in alive], mask[keep]
                cache.batch_select_indices(keep)
            # a finished slot that is still in the batch computes on, and is not read
            mask = torch.cat([mask, mask.new_ones(len(slots), 1)], 1)
            logits = self._decode(slots, cache, mask)

    def _room(self, request: Request) -> int:
        """New tokens that a completion may have: where positions are rows of a table, there is an end to them."""
        most = self.policy.num_positions
        left = request.max_new_tokens if most is None else most - len(request.prompt_ids)
        return max(1, min(request.max_new_tokens, left))

    def _prefill(self, slots: list[DecodeSlot]) -> tuple[Tensor, DynamicCache, Tensor]:
        """Compute each distinct prompt once, left-padded, then give every row its own copy of the cache."""
        distinct = {tuple(slot.request.prompt_ids): None for slot in slots}
        place = {prompt: number for number, prompt in enumerate(distinct)}
        width = max(len(prompt) for prompt in distinct)
        ids = torch.zeros(len(distinct), width, dtype=torch.int64)
        mask = torch.zeros(len(distinct), width, dtype=torch.int64)
        for prompt, number in place.items():
            ids[number, width - len(prompt) :] = torch.tensor(prompt)
            mask[number, width - len(prompt) :] = 1
        device = self.policy.device
        ids, mask = ids.to(device), mask.to(device)
        cache = make_cache(self.policy)
        positions = (mask.cumsum(1) - 1).clamp(min=0)  # the padding on the left has no position of its own
        logits = self._forward(ids, mask, positions, cache)
        own = torch.tensor([place[tuple(slot.request.prompt_ids)] for slot in slots], device=device)
        cache.batch_select_indices(own)
        return logits[own], cache, mask[own]

    def _decode(self, slots: list[DecodeSlot], cache: DynamicCache, mask: Tensor) -> Tensor:
        ids = torch.tensor([[slot.ids[-1]] for slot in slots], device=mask.device)
        return self._forward(ids, mask, mask.sum(1, keepdim=True) - 1, cache)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        base = self.policy.base
        known = inspect.signature(type(base).forward).parameters
        options = {"position_ids": positions, "logits_to_keep": 1}  # ALiBi models take no positions, old ones give all
        options = {name: value for name, value in options.items() if name in known}
        out = self.policy.model(
            input_ids=ids, attention_mask=mask, use_cache=True, **options, **{str(cache_argument(base)): cache}
        )
        logits: Tensor = out.logits[:, -1].float()
        return logits


def _slot(number: int, request: Request) -> DecodeSlot:
    return DecodeSlot(number, request, uniform_numbers(request))


def _uniform(slot: DecodeSlot) -> float:
    """The number that picks a slot's next token."""
    assert slot.uniform is not None
    return float(slot.uniform[min(len(slot.ids), len(slot.uniform) - 1)])


def _pick(logits_BV: Tensor, slots: list[DecodeSlot]) -> list[tuple[int, float]]:
    """Sample one token per slot; returns (token, log-prob)."""
    device = logits_BV.device
    uniform_B = torch.tensor([_uniform(slot) for slot in slots], device=device)
    token_B, logprob_B = pick(logits_BV, uniform_B, Rules.of([slot.request for slot in slots], device))
    return list(zip(token_B.tolist(), logprob_B.tolist(), strict=True))


def _completion(slot: DecodeSlot, *, truncated: bool) -> Completion:
    return Completion(np.array(slot.ids, np.int32), np.array(slot.logprobs, np.float32), truncated)
