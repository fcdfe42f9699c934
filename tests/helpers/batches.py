"""Batches made by hand."""

from __future__ import annotations

import torch

from alignkit.methods import Batch


def batch(logprobs: list[list[float]], *, groups: list[int] | None = None, **given: object) -> Batch:
    """A batch from each completion's log-probs; two completions a prompt unless `groups` says otherwise."""
    lengths = [len(completion) for completion in logprobs]
    groups = groups if groups is not None else [n // 2 for n in range(len(logprobs))]
    counts = {
        "tokens": sum(lengths),
        "completions": len(lengths),
        "pairs": len(set(groups)),
        "groups": len(set(groups)),
    }
    return Batch(
        logprob_T=torch.tensor([x for completion in logprobs for x in completion], requires_grad=True),
        completion_T=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        group_N=torch.tensor(groups),
        num_tokens_N=torch.tensor(lengths),
        reference_length_N=given.pop("targets", torch.zeros(len(lengths), dtype=torch.int64)),
        denominators=counts,
        **given,
    )
