"""The plain path: completions apart in padded batches give what the model itself gives for each alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model

from alignkit.data.trees.packs import Pack, lay_out
from alignkit.data.trees.trees import Tree, tree
from alignkit.policy import policy as policies
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.policy.separate_rows import SeparateRows

# Layers of every sort: full attention, windows, soft-caps, positions in tables and in biases, convolutions, states.
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {"attn_pdrop": 0.0},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 48},
    "bloom": {},
    "gemma2": {"head_dim": 12, "sliding_window": 4},
    "gemma3_text": {"head_dim": 12, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_5_text": {
        "head_dim": 12,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    },
}


def trees_of(shapes: list[tuple[int, list[int]]]) -> list[Tree]:
    rng = np.random.default_rng(0)
    return [
        tree(
            f"r{n}",
            rng.integers(0, 256, prompt),
            [(rng.integers(0, 256, size), (rng.random(size) < 0.7) & (prompt + np.arange(size) > 0)) for size in sizes],
        )
        for n, (prompt, sizes) in enumerate(shapes)
    ]


def one_at_a_time(policy: Policy, pack: Pack) -> torch.Tensor:
    """The model's own logits of each completion after its prompt, and torch's log-softmax: [T]."""
    pieces = []
    for one in pack.trees:
        for completion in one.completions:
            ids = torch.as_tensor(np.concatenate([one.prompt.ids, completion.ids]).astype(np.int64))
            logprobs = policy.model(input_ids=ids[None], use_cache=False).logits[0].float().log_softmax(-1)
            at = torch.as_tensor(len(one.prompt) + np.flatnonzero(completion.scored))
            pieces.append(logprobs[at - 1].gather(-1, ids[at, None])[:, 0])
    return torch.cat(pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_padded_batches_give_what_the_model_gives_for_each_completion_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(tiny_model(tmp_path, kind=kind, **KINDS[kind]), precision="fp32", attention="plain").eval()
    monkeypatch.setattr(policies, "_MAX_TOKENS", 220)
    pack = lay_out(trees_of([(9, [5, 70, 1]), (70, [3, 9]), (0, [8]), (2, [12, 12])]))
    passes = []
    hook = policy.body.register_forward_pre_hook(lambda *x: passes.append(x[-1]["input_ids"].shape), with_kwargs=True)
    found = policy(pack).logprob_T
    hook.remove()
    assert len(passes) < pack.num_completions and any(rows > 1 for rows, _ in passes)
    expected = one_at_a_time(policy, pack)
    weights = torch.linspace(-1, 1, len(found))
    gradients = [
        torch.autograd.grad((x * weights).sum(), list(policy.parameters()), allow_unused=True)
        for x in (found, expected)
    ]
    ours, theirs = (torch.cat([g.flatten() for g in given if g is not None]) for given in gradients)
    assert (found - expected).abs().max() <= 1e-5
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(
        st.tuples(st.integers(0, 9), st.lists(st.integers(1, 20), min_size=1, max_size=4)), min_size=1, max_size=5
    ),
    max_padding=st.integers(0, 60),
    max_tokens=st.integers(1, 90),
)
def test_every_completion_is_in_one_batch_after_its_prompt(
    shapes: list[tuple[int, list[int]]], max_padding: int, max_tokens: int
) -> None:
    pack = lay_out(trees_of(shapes))
    rows = SeparateRows.of(pack, max_padding=max_padding, max_tokens=max_tokens)
    flat = np.concatenate([batch.ravel() for batch in rows.batches])
    sequences = [[*one.prompt.ids, *completion.ids] for one in pack.trees for completion in one.completions]
    for number, (ids, last) in enumerate(zip(sequences, rows.last_N, strict=True)):
        start = last - len(ids) + 1
        assert flat[start : last + 1].tolist() == ids
        sources = rows.source_T[pack.completion_T == number]
        assert [ids[at + 1 - start] for at in sources] == pack.target_T[pack.completion_T == number].tolist()
    assert len(set(rows.last_N.tolist())) == len(sequences)
    padding = len(flat) - sum(map(len, sequences))
    assert 0 <= padding <= max_padding * len(rows.batches)
    assert all(batch.size <= max_tokens or len(batch) == 1 for batch in rows.batches)
