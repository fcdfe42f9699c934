"""Beam search with a KV cache, reading the policy's weights directly; beams.py has the rules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignkit.rollouts.batched import MAX_BATCH, BatchedGeneration, DecodeSlot
from alignkit.rollouts.beams import Candidates, Search
from alignkit.rollouts.sampler import Completion, Request


class BeamGeneration(BatchedGeneration):
    """Finds each request's completion of the highest score; temperature, top-p and seed are not looked at."""

    def search(self, requests: Sequence[Request], *, num_beams: int, length_penalty: float) -> list[Completion]:
        """Return one completion for each request, in order; batches hold requests of like prompt length."""
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), i))
        searches = [Search(request, num_beams, length_penalty, self.end_ids) for request in requests]
        size = max(1, MAX_BATCH // num_beams)
        with self.generating():
            for at in range(0, len(order), size):
                self._search([searches[number] for number in order[at : at + size]])
        return [search.best() for search in searches]

    def _search(self, searches: list[Search]) -> None:
        logits, cache, mask = self._prefill([_slot(search.request, ()) for search in searches])
        while True:
            offered = iter(_likeliest(logits, 2 * searches[0].num_beams))
            parents, first, going = [], 0, []
            for search in searches:
                num_live = len(search.live)
                places = search.advance([next(offered) for _ in range(num_live)])
                if not search.is_done:
                    going.append(search)
                    parents += [first + place for place in places]
                first += num_live
            if not going:
                return
            searches = going
            index = torch.tensor(parents, device=mask.device)
            cache.batch_select_indices(index)
            mask = torch.cat([mask[index], mask.new_ones(len(parents), 1)], 1)
            slots = [_slot(search.request, beam.ids) for search in searches for beam in search.live]
            logits = self._decode(slots, cache, mask)


def _slot(request: Request, ids: tuple[int, ...]) -> DecodeSlot:
    return DecodeSlot(0, request, ids=list(ids))


def _likeliest(logits_BV: Tensor, num: int) -> list[Candidates]:
    """Each row's likeliest tokens and their log-probs."""
    top = logits_BV.log_softmax(-1).topk(min(num, logits_BV.shape[-1]), dim=-1)
    return [
        list(zip(ids, logprobs, strict=True))
        for ids, logprobs in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]
