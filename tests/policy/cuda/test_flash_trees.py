"""Tree attention in two calls of a kernel that knows no trees, against one softmax under a dense mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from alignkit.data.trees.packs import Pack, lay_out
from alignkit.data.trees.trees import tree
from alignkit.policy.attention import DenseLayout, FlexLayout, TreeLayout, marks, sees
from alignkit.policy.cuda import flash_trees
from alignkit.policy.cuda.flash_trees import FlashLayout, Spans
from alignkit.policy.load import load_policy
from alignkit.policy.transfer import to_device

HEADS, SHARED, SIZE = 4, 2, 8
ROWS = {
    "one completion a prompt": [[5, 3], [2, 4], [1, 1]],
    "pairs and a group": [[4, 3, 2], [3, 1, 5, 2, 1], [6, 2]],
    "a prompt alone": [[7, 2, 2], [3]],
}


def row(sizes: list[list[int]]) -> Pack:
    return lay_out(
        [
            tree(str(n), np.zeros(prompt, int), [(np.zeros(size, int), np.ones(size, bool)) for size in completions])
            for n, (prompt, *completions) in enumerate(sizes)
        ]
    )


def tensors(count: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32, size: int = SIZE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [
        torch.randn(1, heads, count, size, generator=generator).to(device, dtype).requires_grad_()
        for heads in (HEADS, SHARED, SHARED)
    ]


def dense(pack: Pack, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One softmax over the keys that the mask function lets a query see, in fp64."""
    places = torch.arange(len(pack.ids_S), device=query.device)
    mask = sees(*(torch.from_numpy(x).to(query.device) for x in marks(pack.spans)))
    seen = mask(None, None, places[:, None], places[None])
    query, key, value = (x.double() for x in (query, key, value))
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, enable_gqa=True)
    return out.transpose(1, 2)


def plain_flash(
    query: Tensor, key: Tensor, value: Tensor, spans: Spans, scale: float, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """What the kernel computes, span by span."""
    assert spans[2:] == (int(spans.query_ends.diff().max()), int(spans.key_ends.diff().max()))
    scores, key, value = _scores(query, key, value, spans, scale, causal)
    total = scores.logsumexp(-1)
    return torch.einsum("aqk,kad->qad", (scores - total[..., None]).exp(), value).to(query.dtype), total


def plain_flash_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    total: Tensor,
    spans: Spans,
    scale: float,
    *,
    causal: bool,
) -> tuple[Tensor, ...]:
    """Its backward pass, from the log-sum-exps and the output that it is given: these may be of more keys."""
    scores, wide_key, wide_value = _scores(query, key, value, spans, scale, causal)
    probs = (scores - total[..., None]).exp()
    centre = (grad * out).sum(-1).t()[..., None]
    inner = probs * (torch.einsum("qad,kad->aqk", grad, wide_value) - centre) * scale
    by_query = torch.einsum("aqk,kad->qad", inner, wide_key)
    by_key, by_value = torch.einsum("aqk,qad->kad", inner, query), torch.einsum("aqk,qad->kad", probs, grad)
    return by_query, *(x.unflatten(1, (key.shape[1], -1)).sum(2) for x in (by_key, by_value))


def _scores(
    query: Tensor, key: Tensor, value: Tensor, spans: Spans, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (x.float() for x in (query, key, value))
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    of_query = torch.searchsorted(spans.query_ends, torch.arange(len(query)), right=True)
    of_key = torch.searchsorted(spans.key_ends, torch.arange(len(key)), right=True)
    seen = of_query[:, None] == of_key
    if causal:
        seen &= torch.arange(len(query))[:, None] >= torch.arange(len(key))
    return (torch.einsum("qad,kad->aqk", query, key) * scale).masked_fill(~seen, -torch.inf), key, value


@pytest.fixture
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash_trees, "_flash", plain_flash)
    monkeypatch.setattr(flash_trees, "_flash_backward", plain_flash_backward)


@pytest.mark.parametrize("sizes", ROWS.values(), ids=ROWS)
def test_two_calls_put_together_are_one_softmax_and_its_gradient(sizes: list[list[int]], plain_kernels: None) -> None:
    pack = row(sizes)
    given = tensors(len(pack.ids_S))
    wanted = dense(pack, *given)
    found = FlashLayout.of(pack.spans, torch.device("cpu")).attend(*given, None)
    assert found.shape == (1, len(pack.ids_S), HEADS, SIZE)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    weight = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(
        torch.autograd.grad(found, given, weight), torch.autograd.grad(wanted, given, weight.double()), strict=True
    ):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=1e-5)


def test_a_compiled_layer_is_one_graph_whatever_the_trees(plain_kernels: None) -> None:
    counter = CompileCounter()

    @torch.compile(backend=counter, dynamic=True, fullgraph=True)
    def layer(query: Tensor, key: Tensor, value: Tensor, layout: FlashLayout) -> Tensor:
        return layout.attend(2 * query, key, value, None)

    for sizes in [*ROWS.values(), [[9, 4, 4, 4]]]:
        pack = row(sizes)
        given = tensors(len(pack.ids_S))
        found = layer(*given, FlashLayout.of(pack.spans, torch.device("cpu")))
        torch.testing.assert_close(found.double(), dense(pack, 2 * given[0], *given[1:]), rtol=1e-5, atol=1e-5)
    assert counter.frame_count == 1


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", [[[300, 200], [40, 30], [500, 129]], [[300, 120, 90, 257], [100, 60, 60], [33]]])
def test_the_kernels_of_the_card_are_right_and_the_same_twice(sizes: list[list[int]]) -> None:
    pack = row(sizes)
    given = tensors(len(pack.ids_S), device="cuda", dtype=torch.bfloat16, size=64)
    layout = FlashLayout.of(pack.spans, torch.device("cuda"))
    wide = [x.detach().double().requires_grad_() for x in given]
    wanted, found = dense(pack, *wide), layout.attend(*given, None)
    weight = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).to("cuda")
    theirs = [wanted, *torch.autograd.grad(wanted, wide, weight.double())]
    ours, again = (
        [out := layout.attend(*given, None), *torch.autograd.grad(out, given, weight.to(out.dtype))] for _ in range(2)
    )
    for one, other, true in zip(ours, again, theirs, strict=True):
        assert torch.equal(one, other)
        assert float((one.double() - true).norm() / true.norm()) < 0.01
    assert found.dtype == torch.bfloat16


def test_a_policy_computes_by_them_in_bf16_and_by_flex_attention_in_fp32(
    tmp_path: Path, plain_kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash_trees, "is_available", lambda device, head_size: True)
    policy = load_policy(tiny_model(tmp_path / "model"), precision="bf16", attention="tree").eval()
    pack = row([[5, 4, 3], [9, 2]])
    with torch.no_grad():
        wanted = policy(pack).logprob_T
        monkeypatch.setattr(policy, "_cpu", None)  # as on another device
        found = policy(pack).logprob_T

    def layout() -> TreeLayout:
        return policy._layout(pack, *to_device([policy.arrays(pack)], policy.device))

    assert isinstance(layout(), FlashLayout)
    with policy.in_fp32():  # a look at a few rows
        assert isinstance(layout(), DenseLayout)
    policy.autocast = None
    assert isinstance(layout(), FlexLayout)
    assert 0 < float((found - wanted).abs().mean()) < 0.01
